"""Tests of the arguments that each release's `trtllm-build` gets for the example specs.

After an intended change, write the files again:
`.venv/bin/python -m tests.backends.tensorrt.build_options.test_golden`
"""

from pathlib import Path

import pytest

from enginery.backends.tensorrt.build_defaults import EngineOptions
from enginery.backends.tensorrt.build_options import RenderedBuild, render_build
from enginery.core.files import write_atomic
from enginery.releases.facts import releases
from enginery.spec.read import read_spec
from tests.support.models.examples import FLEET, Example
from tests.support.paths import CHECKOUT
from tests.support.plans.release_parser import parse

GOLDEN = Path(__file__).parents[3] / "golden" / "build"


def rendered(example: Example, release: str) -> RenderedBuild:
    spec = example.spec_for(release)
    (target,) = spec.targets
    ranks = target.tensor_parallel * target.pipeline_parallel
    return render_build(
        EngineOptions(spec.build_for(target), release, dtype=example.dtype, model=example.model, ranks=ranks)
    )


def line(example: Example, release: str) -> str:
    build = rendered(example, release)
    if build.findings:
        return f"{release}: refused: " + " | ".join(map(str, build.findings))
    return " ".join((f"{release}:", *(f"{name}={value}" for name, value in build.environment.items()), *build.flags))


def content(example: Example) -> str:
    return "".join(f"{line(example, release)}\n" for release in releases())


@pytest.mark.parametrize("example", FLEET, ids=lambda one: one.name)
def test_the_arguments_for_every_release_are_those_kept(example: Example) -> None:
    assert (GOLDEN / f"{example.name}.txt").read_text(encoding="utf-8") == content(example)


def test_there_is_no_golden_file_without_an_example() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == {example.name for example in FLEET}


@pytest.mark.parametrize("release", releases())
def test_every_release_accepts_its_arguments_for_the_fleet(release: str) -> None:
    builds = [rendered(example, release) for example in FLEET]
    accepted = [parse(release, build.flags) for build in builds if not build.findings]
    assert len(accepted) >= len(FLEET) // 2


@pytest.mark.parametrize("release", releases())
def test_every_example_that_a_release_refuses_is_refused_with_its_name(release: str) -> None:
    found = [finding for example in FLEET for finding in rendered(example, release).findings]
    assert all(release in finding.problem and finding.remedy for finding in found)


def test_the_tutorials_spec_gives_the_arguments_of_the_tutorial() -> None:
    spec = read_spec(CHECKOUT / "infra" / "models" / "llama-3-8b-instruct.yaml")
    (target,) = spec.targets
    build = render_build(EngineOptions(spec.build_for(target), target.release, dtype="bfloat16"))
    assert target.release == "0.8.0"
    assert build.flags == ("--gpt_attention_plugin", "bfloat16", "--gemm_plugin", "bfloat16")
    assert not build.findings


def main() -> None:
    for example in FLEET:
        write_atomic(GOLDEN / f"{example.name}.txt", content(example))


if __name__ == "__main__":
    main()

"""Tests of each release's commands for the example specs, from the weights to the engine.

After an intended change, write the files again: `.venv/bin/python -m tests.backends.tensorrt.test_golden`
"""

from pathlib import Path

import pytest

from enginery.backends.tensorrt.backend import TensorRT
from enginery.core.files import write_atomic
from enginery.releases.facts import builds_engines, releases
from enginery.store.steps import Command
from tests.support.models.examples import FLEET
from tests.support.plans.tensorrt import WEIGHTS, findings, fleet_request

GOLDEN = Path(__file__).parents[2] / "golden" / "plans"


def lines(name: str, release: str) -> list[str]:
    request = fleet_request(name, release)
    found = findings(request)
    if found:
        return [f"refused: {finding.path} [{finding.code}]" for finding in found]
    recipes = [made.step.recipe for made in TensorRT().chain(request, WEIGHTS).making]
    return [" ".join(recipe.argv) for recipe in recipes if isinstance(recipe, Command)]


def content(name: str) -> str:
    return "".join(f"{release}\n" + "".join(f"  {line}\n" for line in lines(name, release)) for release in releases())


@pytest.mark.parametrize("name", [example.name for example in FLEET])
def test_the_commands_of_every_release_are_those_kept(name: str) -> None:
    assert (GOLDEN / f"{name}.txt").read_text(encoding="utf-8") == content(name)


def test_there_is_a_golden_file_for_each_example_and_no_other() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == {example.name for example in FLEET}


@pytest.mark.parametrize("release", [release for release in releases() if builds_engines(release)])
def test_every_release_builds_most_of_the_fleet(release: str) -> None:
    built = [example.name for example in FLEET if not findings(fleet_request(example.name, release))]
    assert len(built) >= len(FLEET) // 3


def main() -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for example in FLEET:
        write_atomic(GOLDEN / f"{example.name}.txt", content(example.name))


if __name__ == "__main__":
    main()

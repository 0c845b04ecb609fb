"""For any spec, the release's recorded flags accept each command, or it is refused with a reason."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enginery.backends import Request
from enginery.backends.tensorrt.backend import TensorRT
from enginery.releases.facts import builds_engines, releases
from enginery.releases.flags import BUILD, Flag, commands, flags_of, script
from enginery.spec.findings import Finding
from enginery.spec.types import Precision
from enginery.store.steps import Command
from tests.support.models.examples import (
    FLEET,
    GEMMA_7B,
    LLAMA_2_7B,
    LLAMA_3_1_8B,
    LLAMA_3_8B,
    LLAMA_3_70B,
    MISTRAL_7B,
    MIXTRAL_8X7B,
    PHI_2,
    QWEN2_7B,
)
from tests.support.plans.tensorrt import BUILD as BUILD_BFLOAT16
from tests.support.plans.tensorrt import WEIGHTS, findings, fleet_request, request_of
from tests.support.trtllm.commands.parser import parser

MODELS = (
    LLAMA_2_7B,
    LLAMA_3_8B,
    LLAMA_3_1_8B,
    LLAMA_3_70B,
    MISTRAL_7B,
    MIXTRAL_8X7B,
    QWEN2_7B,
    GEMMA_7B,
    PHI_2,
    LLAMA_3_8B | {"architectures": ["BaichuanForCausalLM"]},
    LLAMA_3_8B | {"architectures": ["Starcoder2ForCausalLM"]},
    LLAMA_3_8B | {"architectures": ["Phi3ForCausalLM"]},
    LLAMA_3_8B | {"architectures": ["MedusaForCausalLM"]},
    LLAMA_3_8B | {"architectures": ["NobodyForCausalLM"]},
)
GPUS = ("H100-SXM5-80GB", "H100-SXM5-80GB", "A100-SXM4-80GB", "L40S", "T4", "B200", "RTX-5090", "GB10")
AUTO = {"gpt_attention_plugin": "auto", "nccl_plugin": "auto"}
ENGINE_RELEASES = [release for release in releases() if builds_engines(release)]
REPOSITORY = "examples/"


class Refused(Exception):  # noqa: N818  what the command does
    """The command would refuse its arguments and print its usage."""


parser_of = cache(parser)


@cache
def known_of(release: str, command: str) -> Mapping[str, Flag]:
    return flags_of(release, command).value


@cache
def command_of(release: str, location: str) -> str:
    """The name that the facts have for a script of the release's examples."""
    (found,) = {
        name for name in commands() if name != BUILD and script(release, name).value == f"{REPOSITORY}{location}"
    }
    return found


def accept(release: str, argv: Sequence[str]) -> None:
    """Parse a command's arguments as the release does.

    Raises:
        Refused: the release does not accept them.
    """
    command = BUILD if argv[0] == BUILD else command_of(release, argv[1].removeprefix("{examples}/"))
    known = known_of(release, command)
    members = {str(choice) for flag in known.values() for choice in flag.choices}
    words = [f"CheckpointType.{word}" if f"CheckpointType.{word}" in members else word for word in argv]
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            parser_of(release, command).parse_args(words[1 if argv[0] == BUILD else 2 :])
    except SystemExit as error:
        raise Refused(output.getvalue()) from error
    names = {name for flag in known.values() for name in (flag.name, *flag.aliases)}
    short = [word for word in words[2:] if word.startswith("--") and word not in names]
    if short:
        raise Refused(f"abbreviated: {short}")


def commands_for(request: Request) -> list[tuple[str, ...]]:
    """The commands that make the request's engine."""
    made = TensorRT().chain(request, WEIGHTS).making
    return [step.step.recipe.argv for step in made if isinstance(step.step.recipe, Command)]


def explained(finding: Finding) -> bool:
    return bool(finding.path and finding.problem and finding.remedy)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    calibration: dict[str, Any] = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "dataset": st.just("cnn_dailymail"),
                "size": st.integers(1, 512),
                "max_length": st.integers(1, 2048),
                "batch_size": st.integers(1, 8),
                "seed": st.integers(0, 99),
            },
        )
    )
    convert: dict[str, Any] = {
        "kv_cache": draw(st.sampled_from(["auto", "auto", "auto", "fp8", "int8", "nvfp4"])),
        "device": draw(st.sampled_from([None, None, "cpu", "cuda"])),
        "calibration": calibration,
        "extra_args": draw(
            st.sampled_from([[], [], [], ["--workers", "2"], ["--load_by_shard"], ["--rotary_base", "1e6"]])
        ),
    }
    return request_of(
        draw(st.sampled_from(MODELS)),
        spec={"build": draw(st.sampled_from([{}, BUILD_BFLOAT16, AUTO, AUTO]))},
        release=draw(st.sampled_from(ENGINE_RELEASES)),
        gpu=draw(st.sampled_from(GPUS)),
        precision=str(draw(st.sampled_from(list(Precision)))),
        tensor_parallel=draw(st.sampled_from([1, 1, 2, 2, 4, 8, 3, 16])),
        pipeline_parallel=draw(st.sampled_from([1, 1, 2, 3])),
        convert=convert,
    )


@settings(max_examples=400)
@given(requests())
def test_every_command_is_accepted_by_the_release_or_refused_with_a_reason(request: Request) -> None:
    found = findings(request)
    if found:
        assert all(explained(finding) for finding in found)
    else:
        for argv in commands_for(request):
            accept(request.target.release, argv)


@pytest.mark.parametrize("release", ENGINE_RELEASES)
def test_the_fleets_commands_are_accepted_by_the_release(release: str) -> None:
    for example in FLEET:
        request = fleet_request(example.name, release)
        for argv in commands_for(request) if not findings(request) else ():
            accept(release, argv)


@pytest.mark.parametrize("precision", [one for one in Precision if one not in {Precision.INT8, Precision.INT4}])
def test_each_precision_is_made_by_some_release(precision: Precision) -> None:
    gpu = "B200" if precision is Precision.NVFP4 else "H100-SXM5-80GB"
    built = [
        release
        for release in ENGINE_RELEASES
        if not findings(request_of(LLAMA_2_7B, release=release, gpu=gpu, precision=str(precision)))
    ]
    assert built
    for release in built:
        for argv in commands_for(request_of(LLAMA_2_7B, release=release, gpu=gpu, precision=str(precision))):
            accept(release, argv)


def test_a_command_that_a_release_does_not_take_is_noticed_here() -> None:
    argv = ("{python}", "{examples}/llama/convert_checkpoint.py", "--no_such_flag", "1")
    with pytest.raises(Refused, match="no_such_flag"):
        accept("0.8.0", argv)
    with pytest.raises(Refused, match="invalid choice"):
        accept("0.8.0", ("{python}", "{examples}/quantization/quantize.py", "--qformat", "nvfp4"))

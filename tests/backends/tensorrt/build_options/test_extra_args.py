"""Tests of `extra_args`: which arguments are passed to `trtllm-build`, and which are refused."""

import pytest

from enginery.backends.tensorrt.build_defaults import EngineOptions
from enginery.backends.tensorrt.build_options import render_build
from enginery.spec.build import FLAGS_ELSEWHERE, BuildOptions


def problems(release: str, *arguments: str) -> list[str]:
    findings = render_build(EngineOptions(BuildOptions(extra_args=arguments), release)).findings
    assert {(one.code, one.path, one.level) for one in findings} <= {("E163", "build.extra_args", "error")}
    return [str(finding).removeprefix("build.extra_args: ") for finding in findings]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--log_level", "verbose"),
        ("--log_level=verbose",),
        ("--enable_debug_output",),
        ("--monitor_memory", "--log_level", "error"),
        ("--model_cls_file", "my model.py", "--model_cls_name", "Mine"),
        ("--gpus_per_node", "-1"),
        ("--gpus_per_node=-1",),
    ],
)
def test_flags_of_the_release_are_passed_as_they_are_after_the_others(arguments: tuple[str, ...]) -> None:
    build = render_build(EngineOptions(BuildOptions(extra_args=arguments, max_batch_size=8), "0.16.0"))
    assert build.flags == ("--max_batch_size", "8", *arguments)
    assert not build.findings


@pytest.mark.parametrize(
    ("release", "arguments", "problem"),
    [
        ("0.16.0", ("--no_such",), "0.16.0 has no --no_such; leave it out"),
        ("0.16.0", ("--log",), "0.16.0 has no --log;"),
        ("0.14.0", ("--monitor_memory",), "0.14.0 has no --monitor_memory;"),
        ("1.2.1", ("--gpus_per_node", "8"), "1.2.1 has no --gpus_per_node;"),
        ("0.16.0", ("-v",), "0.16.0 has no -v;"),
        ("0.16.0", ("verbose",), "'verbose' follows no flag; begin with a flag"),
        ("0.16.0", ("",), "'' follows no flag;"),
        ("0.16.0", ("--",), "0.16.0 has no --;"),
        ("0.16.0", ("--log_level",), "--log_level of 0.16.0 takes 1 value, found 0;"),
        ("0.16.0", ("--log_level", "info", "debug"), "--log_level of 0.16.0 takes 1 value, found 2;"),
        ("0.16.0", ("--log_level=info", "debug"), "--log_level of 0.16.0 takes 1 value, found 2;"),
        ("0.16.0", ("--log_level", "loud"), "--log_level of 0.16.0 does not take 'loud', only one of internal_error"),
        ("0.16.0", ("--gpus_per_node", "many"), "--gpus_per_node of 0.16.0 does not take 'many', only int;"),
        ("0.16.0", ("--monitor_memory", "yes"), "--monitor_memory of 0.16.0 takes no value, found 1;"),
        ("0.16.0", ("--monitor_memory=",), "--monitor_memory of 0.16.0 takes no value, found 1;"),
        ("0.16.0", ("--max_batch_size", "8"), "--max_batch_size has a field of its own; write build.max_batch_size"),
        (
            "0.16.0",
            ("--paged_kv_cache", "enable"),
            "--paged_kv_cache has a field of its own; write build.kv_cache_type",
        ),
        ("0.16.0", ("--max_multimodal_len=8",), "--max_multimodal_len has a field of its own; write build.max_prompt"),
        ("0.16.0", ("--checkpoint_dir", "x"), "--checkpoint_dir cannot be given: Enginery sets input"),
        ("0.16.0", ("--dry_run",), "--dry_run cannot be given: it makes no engine;"),
        ("0.9.0", ("--tp_size", "2"), "--tp_size cannot be given: the target's tensor_parallel"),
        ("0.8.0", ("--timing_cache", "x"), "--timing_cache cannot be given: Enginery keeps timing caches;"),
    ],
)
def test_what_the_release_would_not_take_or_must_not_be_given_is_refused(
    release: str, arguments: tuple[str, ...], problem: str
) -> None:
    (found,) = problems(release, *arguments)
    assert found.startswith(problem)


def test_every_mistake_is_found_at_once() -> None:
    assert len(problems("0.16.0", "stray", "--no_such", "1", "--log_level", "loud", "--monitor_memory", "yes")) == 4


def test_flags_that_a_finding_tells_the_user_to_give_here_are_accepted() -> None:
    advised = [flag for flag, advice in FLAGS_ELSEWHERE.items() if "extra_args" in advice]
    values = {"log_level": ["info"], "visualize_network": ["graphs"]}
    assert advised
    for flag in advised:
        assert problems("1.2.1", f"--{flag}", *values.get(flag, [])) == []

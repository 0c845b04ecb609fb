# ruff: noqa: F811  fixtures are imported
"""Tests of the stand-in for TensorRT-LLM's commands: the failures that a test can choose."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from enginery.core import process
from enginery.core.errors import CommandError
from enginery.releases.flags import BUILD
from enginery.toolchains.probe import probe_environment
from tests.support.paths import TINY_LLAMA
from tests.support.processes.families import alive_among
from tests.support.trtllm import StandIn
from tests.support.trtllm.files import timing_cache
from tests.support.trtllm.fixtures import middle, naughty  # noqa: F401
from tests.support.trtllm.using import LLAMA, PROMPT, Example, build, config_of, convert, drive, run
from tests.support.waiting import wait_until


def fail(stand_in: StandIn, checkpoint: Path, output: Path, *more: str) -> CommandError:
    """The error of Enginery's own runner for this build."""
    argv = [str(stand_in.bin / BUILD), "--checkpoint_dir", str(checkpoint), "--output_dir", str(output), *more]
    with pytest.raises(CommandError) as caught:
        process.run(argv, env=stand_in.environment(), cwd=output.parent, timeout=30)
    return caught.value


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("killed", "host-memory"),
        ("host_out_of_memory", "host-memory"),
        ("gpu_out_of_memory", "gpu-memory"),
        ("disk_full", "disk-full"),
    ],
)
def test_a_build_that_dies_leaves_its_config_and_no_engine(
    naughty: StandIn, middle: Example, tmp_path: Path, how: str, cause: str
) -> None:
    naughty.misbehave(BUILD, how)
    assert fail(naughty, middle.checkpoint(), tmp_path / "engine").cause == cause
    assert [path.name for path in (tmp_path / "engine").iterdir()] == ["config.json"]


def test_a_hanging_build_hangs_with_a_child_until_both_are_killed(
    naughty: StandIn, middle: Example, tmp_path: Path
) -> None:
    naughty.misbehave(BUILD, "hang")
    argv = [str(naughty.bin / BUILD), "--checkpoint_dir", str(middle.checkpoint()), "--output_dir", str(tmp_path)]
    with subprocess.Popen(argv, env=naughty.environment(), cwd=tmp_path, start_new_session=True) as hanging:
        wait_until(lambda: len(naughty.hanging()) == 2, seconds=30)
        assert alive_among(naughty.hanging()) == naughty.hanging()
        os.killpg(hanging.pid, signal.SIGKILL)
    wait_until(lambda: not alive_among(naughty.hanging()))


def test_a_flag_of_the_facts_can_be_refused_and_hidden(naughty: StandIn, middle: Example, tmp_path: Path) -> None:
    naughty.misbehave(BUILD, "unknown_flag", flags=["--gemm_plugin"])
    assert "--gemm_plugin" not in run(naughty, BUILD, "--help", cwd=tmp_path)
    error = fail(naughty, middle.checkpoint(), tmp_path / "engine", "--gemm_plugin", "bfloat16")
    assert error.cause == "unknown-flag"


@pytest.mark.parametrize(
    ("how", "left"),
    [
        ("rank_missing", {"config.json", "rank0.engine"}),
        ("exit_0_without_engine", set()),
        ("truncated_engine", {"config.json", "rank0.engine", "rank1.engine"}),
        ("world_size_mismatch", {"config.json", "rank0.engine", "rank1.engine"}),
    ],
)
def test_a_build_can_end_well_without_having_done_well(
    naughty: StandIn, middle: Example, tmp_path: Path, how: str, left: set[str]
) -> None:
    naughty.misbehave(BUILD, how)
    build(naughty, middle.checkpoint(2), tmp_path / "engine")
    assert {path.name for path in (tmp_path / "engine").iterdir()} == left
    if how == "truncated_engine":
        assert (tmp_path / "engine" / "rank1.engine").read_bytes() == b""
    if how == "world_size_mismatch":
        assert config_of(tmp_path / "engine")["pretrained_config"]["mapping"]["world_size"] == 4


def test_a_converter_can_lose_the_rope_base_or_a_rank(naughty: StandIn, tmp_path: Path) -> None:
    naughty.misbehave("convert_checkpoint.py", "loses_rope")
    naughty.misbehave(LLAMA, "rank_missing")
    convert(naughty, tmp_path / "checkpoint", "--tp_size", "2")
    assert config_of(tmp_path / "checkpoint")["rotary_base"] == 10000.0
    assert not (tmp_path / "checkpoint" / "rank1.safetensors").exists()


def test_noise_does_not_change_what_is_built(naughty: StandIn, middle: Example, tmp_path: Path) -> None:
    naughty.misbehave(BUILD, "noise_on_stderr", lines=3000)
    naughty.misbehave(BUILD, "slow", seconds=0.01)
    assert build(naughty, middle.checkpoint(), tmp_path / "engine").count("this is noise") == 3000
    assert (tmp_path / "engine" / "rank0.engine").exists()


def test_a_timing_cache_can_break_the_build(naughty: StandIn, middle: Example, tmp_path: Path) -> None:
    timing_cache.TimingCache("10.7.0").write(tmp_path / "given.cache")
    naughty.misbehave(BUILD, "bad_timing_cache")
    build(naughty, middle.checkpoint(), tmp_path / "without")
    given = ("--input_timing_cache", "given.cache")
    assert "AssertionError" in build(naughty, middle.checkpoint(), tmp_path / "with", *given, status=1)
    naughty.misbehave(BUILD, "bad_timing_cache", crash=True)
    build(naughty, middle.checkpoint(), tmp_path / "with", *given, status=-11)


def test_misbehaviour_ends_after_as_many_runs_as_were_wanted(naughty: StandIn, middle: Example, tmp_path: Path) -> None:
    naughty.misbehave(BUILD, "gpu_out_of_memory", times=1)
    build(naughty, middle.checkpoint(), tmp_path / "engine", status=1)
    build(naughty, middle.checkpoint(), tmp_path / "engine")


def test_a_runner_can_die_on_one_rank(naughty: StandIn, middle: Example, tmp_path: Path) -> None:
    naughty.misbehave("tensorrt_llm", "gpu_out_of_memory", rank=1)
    one = Example(naughty, tmp_path)
    assert "OutOfMemoryError: CUDA out of memory" in drive(
        one, "ModelRunnerCpp", middle.engine(2), TINY_LLAMA, PROMPT, ranks=2, status=1
    )


def test_a_placeholder_package_has_no_builder_and_cannot_be_imported(naughty: StandIn, tmp_path: Path) -> None:
    naughty.misbehave(BUILD, "not_there")
    assert not (naughty.bin / BUILD).exists()
    found = probe_environment(naughty.python, naughty.environment(), ["tensorrt_llm"])
    assert found.broken["tensorrt_llm"].startswith("ImportError: tensorrt_llm: this is a placeholder package")


def test_a_converter_can_be_missing_from_the_examples(naughty: StandIn, tmp_path: Path) -> None:
    naughty.misbehave(LLAMA, "not_there")
    assert "can't open file" in convert(naughty, tmp_path / "checkpoint", status=2)
    assert naughty.script("convert_checkpoint.py qwen").exists()


def test_a_way_that_there_is_not_is_a_mistake_of_the_test(naughty: StandIn) -> None:
    with pytest.raises(ValueError, match="'explode' is no way to go wrong"):
        naughty.misbehave(BUILD, "explode")

"""Tests of the runner `build_engine` with stand-ins for three releases."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from enginery.backends.tensorrt import build
from enginery.backends.tensorrt.engine import WantedEngine, read_engine
from enginery.core.errors import CommandError, UsageError
from enginery.core.process.failures import FailureCause
from tests.support.engines.tensorrt import Site, make_site
from tests.support.processes.families import alive_among
from tests.support.trtllm.using import Example

BUILD = "trtllm-build"


@pytest.fixture
def site(tmp_path: Path, trtllm_examples: Mapping[str, Example]) -> Site:
    return make_site(tmp_path, "0.16.0", checkpoint=trtllm_examples["0.16.0"].checkpoint())


@pytest.fixture
def wide(tmp_path: Path, trtllm_examples: Mapping[str, Example]) -> Site:
    """A site with a checkpoint for two GPUs."""
    return make_site(tmp_path, "0.16.0", checkpoint=trtllm_examples["0.16.0"].checkpoint(2))


def failing(site: Site, *more: str, **parameters: int) -> CommandError:
    with pytest.raises(CommandError) as caught:
        site.build(*more, context=site.context(**parameters))
    error = caught.value
    assert error.remedy
    assert not error.transient
    return error


@pytest.mark.parametrize("release", ["0.8.0", "0.16.0", "1.2.1"])
def test_an_engine_is_built_checked_and_described(tmp_path: Path, release: str) -> None:
    site = make_site(tmp_path, release)
    context = site.context()
    facts = site.build("--max_batch_size", "4", context=context)
    assert sorted(path.name for path in context.output.iterdir()) == ["config.json", "rank0.engine"]
    size = (context.output / "rank0.engine").stat().st_size
    assert facts["release"] == release
    assert facts["engines"] == {"rank0.engine": size}
    assert facts["engine_bytes"] == size
    assert facts["workers"] == 1
    limits = facts["limits"]
    assert isinstance(limits, dict)
    assert limits["max_batch_size"] == 4
    assert limits["max_beam_width"] == 1


def test_the_log_has_the_defaults_of_the_release(site: Site) -> None:
    limits = site.build()["limits"]
    assert isinstance(limits, dict)
    assert limits["max_batch_size"] == 2048
    assert limits["max_num_tokens"] == 8192
    assert "max_output_len" not in limits


def test_the_command_is_the_recipes_and_the_run_adds_its_own(site: Site) -> None:
    context = site.context()
    site.build(context=context)
    argv = (*site.argv(context), "--output_timing_cache", build.OUTPUT_CACHE)
    assert [done.argv for done in context.completed] == [argv]


def test_nothing_of_the_run_gets_into_the_engine(site: Site) -> None:
    context = site.context()
    site.build()
    site.build(context=context)
    assert str(site.directory) not in (context.output / "config.json").read_text()


def test_noise_is_no_failure_and_stays_in_the_log(site: Site) -> None:
    site.stand_in.misbehave(BUILD, "noise_on_stderr", lines=500)
    site.build()
    assert "this is noise" in site.log


def test_both_ranks_are_built_side_by_side(wide: Site) -> None:
    context = wide.context(tensor_parallel=2)
    facts = wide.build(context=context)
    assert facts["workers"] == 2
    assert context.completed[0].argv[-4:-2] == ("--workers", "2")
    engines = facts["engines"]
    assert isinstance(engines, dict)
    assert list(engines) == ["rank0.engine", "rank1.engine"]


def test_an_end_without_an_engine_is_no_success(site: Site) -> None:
    site.stand_in.misbehave(BUILD, "exit_0_without_engine")
    error = failing(site)
    assert error.cause == FailureCause.INCOMPLETE
    assert "exit status 0 but wrote no engine (it wrote nothing)" in error.problem
    assert "read its last lines" in error.remedy
    assert error.last_lines


def test_a_config_alone_is_no_engine(site: Site) -> None:
    site.stand_in.misbehave(BUILD, "exit_0_without_engine", config=True)
    assert "(it wrote config.json)" in failing(site).problem


def test_a_full_gpu_is_named_with_what_can_be_done_in_a_build(site: Site) -> None:
    site.stand_in.misbehave(BUILD, "gpu_out_of_memory")
    error = failing(site)
    assert error.cause == FailureCause.GPU_MEMORY
    assert "the GPU's memory is too small" in error.problem
    assert "max_batch_size" in error.remedy


@pytest.mark.parametrize(
    ("how", "cause", "problem", "remedy"),
    [
        ("host_out_of_memory", FailureCause.HOST_MEMORY, "memory ran out", "or build on one with more"),
        ("disk_full", FailureCause.DISK_FULL, "the disk is full", "ENGINERY_HOME"),
    ],
)
def test_what_runs_out_is_named(site: Site, how: str, cause: FailureCause, problem: str, remedy: str) -> None:
    site.stand_in.misbehave(BUILD, how)
    error = failing(site)
    assert error.cause == cause
    assert problem in error.problem
    assert remedy in error.remedy


def test_a_killed_build_ran_out_of_the_machines_memory(site: Site) -> None:
    site.stand_in.misbehave(BUILD, "killed")
    error = failing(site)
    assert error.cause == FailureCause.HOST_MEMORY
    assert "SIGKILL" in error.problem
    assert "with more" in error.remedy


def test_a_build_that_hangs_is_ended_with_all_it_started(site: Site) -> None:
    site.stand_in.misbehave(BUILD, "hang")
    site.timeout = 5.0
    with pytest.raises(CommandError, match="time limit of 5 s") as caught:
        site.build()
    assert caught.value.cause == FailureCause.TIMEOUT
    assert "all its processes have ended" in caught.value.remedy
    assert len(site.stand_in.hanging()) == 2
    assert not alive_among(site.stand_in.hanging())


def test_a_missing_rank_is_named(wide: Site) -> None:
    wide.stand_in.misbehave(BUILD, "rank_missing")
    error = failing(wide, tensor_parallel=2)
    assert "for 2 GPUs is not complete: rank1.engine missing" in error.problem
    assert error.cause == FailureCause.INCOMPLETE


def test_an_empty_rank_is_named(wide: Site) -> None:
    wide.stand_in.misbehave(BUILD, "truncated_engine")
    assert "rank1.engine empty" in failing(wide, tensor_parallel=2).problem


def test_an_engine_that_is_cut_otherwise_is_refused(site: Site) -> None:
    site.stand_in.misbehave(BUILD, "world_size_mismatch")
    error = failing(site)
    assert "world_size is 2 and not 1, tp_size is 2 and not 1" in error.problem
    assert "convert it again" in error.remedy


def test_a_checkpoint_for_other_gpus_than_the_target_is_refused(wide: Site) -> None:
    assert "pp_size is 1 and not 2" in failing(wide, pipeline_parallel=2).problem


def test_an_engine_of_another_release_is_refused(site: Site) -> None:
    with pytest.raises(CommandError, match=r"built by TensorRT-LLM 0\.16\.0, expected 0\.15\.0") as caught:
        site.build(release="0.15.0")
    assert "enginery toolchain check" in caught.value.remedy


def test_a_flag_that_the_toolchain_does_not_have_is_named_by_its_own_help(site: Site) -> None:
    site.stand_in.misbehave(BUILD, "unknown_flag", flags=["--gemm_plugin"])
    error = failing(site, "--gemm_plugin", "bfloat16")
    assert error.cause == FailureCause.UNKNOWN_FLAG
    assert error.problem == "trtllm-build of this toolchain has no --gemm_plugin, which release 0.16.0 should have"
    assert "enginery toolchain check" in error.remedy


def test_a_value_that_the_release_refuses_is_reported_with_its_own_message(site: Site) -> None:
    error = failing(site, "--kv_cache_type", "nonsense")
    assert error.cause == FailureCause.UNKNOWN_FLAG
    assert "does not know one of its flags or values" in error.problem
    assert any("invalid choice" in line for line in error.last_lines)


def test_a_build_that_cannot_fit_into_memory_is_not_started(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "available_memory", lambda: 1 << 30)
    with pytest.raises(UsageError, match=r"does not fit.*1\.1 GB are free"):
        site.build()
    assert not site.stand_in.calls(BUILD)


def test_it_is_started_if_the_warning_is_accepted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "available_memory", lambda: 1 << 30)
    facts = site.build(accept_host_memory=True)
    assert facts["workers"] == 1
    assert "although it may not fit" in site.log


def test_workers_are_lowered_to_what_fits_and_that_is_reported(wide: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "available_memory", lambda: 8 << 30)
    context = wide.context(tensor_parallel=2)
    facts = wide.build(context=context)
    assert facts["workers"] == 1
    assert "1 instead of 2 workers" in str(facts["workers_note"])
    assert str(facts["workers_note"]) in wide.lines
    assert "--workers 1" in " ".join(context.completed[0].argv)


def test_workers_that_the_command_names_are_lowered_too(wide: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "available_memory", lambda: 8 << 30)
    context = wide.context(tensor_parallel=2)
    wide.build("--workers", "8", context=context)
    assert context.completed[0].argv.count("--workers") == 1
    assert wide.stand_in.calls(BUILD)[-1].argv[-4:-2] == ("--workers", "1")


def test_an_old_builders_config_is_not_taken_for_an_engines(site: Site, tmp_path: Path) -> None:
    directory = tmp_path / "old"
    directory.mkdir()
    (directory / "rank0.engine").write_bytes(b"engine")
    (directory / "config.json").write_text(json.dumps({"builder_config": {}, "plugin_config": {}}))
    with pytest.raises(CommandError, match="has no version and no pretrained_config and no build_config"):
        read_engine(directory, WantedEngine(release="0.16.0"))

"""Tests of the probe of TensorRT-LLM toolchains, with the stand-in's commands instead of TensorRT-LLM's.

The stand-in prints its help from the recorded facts. So a passing test shows that the help is read correctly. It says
nothing about TensorRT-LLM."""

from pathlib import Path

import pytest

from enginery import toolchains
from enginery.releases.facts import releases
from enginery.releases.flags import BUILD, Flag, flags_of
from enginery.toolchains.release_probe import ReleaseProbe, compare_flags, probe_release, read_help
from tests.support.trtllm import StandIn, make_release
from tests.support.trtllm.commands.parser import parser

HELP = """\
usage: trtllm-build [-h] [--checkpoint_dir CHECKPOINT_DIR]
                    [--gemm_plugin {auto,float16,disable}]

options:
  -h, --help            show this help message and exit
  --checkpoint_dir CHECKPOINT_DIR
                        The directory path that contains TensorRT-LLM checkpoint.
  --max_seq_len MAX_SEQ_LEN, --max_decoder_seq_len MAX_SEQ_LEN
                        Maximum total length of one request, including prompt and
                        outputs, as in --max_output_len of old. (default: None)
  --workers WORKERS     The number of workers. (default: 1)
  --lora_target_modules {attn_q,attn_k} [{attn_q,attn_k} ...]
                        The target module names.
  --dry_run             Run through the build process except the actual Engine build.
  -v, --verbose
  --fast, --no-fast     Build fast.

Plugin config arguments:
  Plugin config arguments

  --gemm_plugin {auto,float16,disable}
                        The GEMM plugin. (default: None)
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    return on_path(tmp_path, "1.2.1", monkeypatch)


def on_path(tmp_path: Path, release: str, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = make_release(tmp_path / "release", release)
    monkeypatch.setenv("PATH", made.environment()["PATH"])
    return made


def probed(release: str) -> ReleaseProbe:
    identity = toolchains.identify(f"tensorrt-llm-{release}", "host")
    return probe_release(toolchains.ensure(identity))


# Help texts


def test_a_help_text_is_read_with_names_and_choices() -> None:
    found = {flag.names[0]: flag for flag in read_help(HELP.splitlines())}
    assert list(found) == [
        "--checkpoint_dir",
        "--max_seq_len",
        "--workers",
        "--lora_target_modules",
        "--dry_run",
        "--verbose",
        "--fast",
        "--gemm_plugin",
    ]
    assert found["--max_seq_len"].names == ("--max_seq_len", "--max_decoder_seq_len")
    assert found["--workers"].choices == ()
    assert found["--lora_target_modules"].choices == ("attn_q", "attn_k")
    assert found["--gemm_plugin"].choices == ("auto", "float16", "disable")
    assert found["--verbose"].names == ("--verbose", "-v")
    assert found["--fast"].names == ("--fast", "--no-fast")


def test_a_flag_named_in_a_description_is_no_flag() -> None:
    assert "--max_output_len" not in {name for flag in read_help(HELP.splitlines()) for name in flag.names}


def test_the_short_form_of_python_3_13_is_read_too() -> None:
    (flag,) = read_help(["  -s, --size {x,y}      The size."])
    assert (flag.names, flag.choices) == (("--size", "-s"), ("x", "y"))


def test_noise_around_a_help_text_does_not_matter() -> None:
    noise = ["[TensorRT-LLM] TensorRT-LLM version: 1.2.1", "", "/usr/lib/x.py:1: FutureWarning: -- old", "  warn()"]
    assert read_help([*noise, *HELP.splitlines()]) == read_help(HELP.splitlines())


# Comparing


def test_what_only_one_side_has_is_reported() -> None:
    listed = read_help(["  --old OLD", "  --both BOTH"])
    recorded = {"--both": Flag("--both"), "--new": Flag("--new")}
    assert list(compare_flags(listed, recorded, "record")) == [
        "--old is listed by trtllm-build --help and not in the record",
        "--new is in the record and not listed by trtllm-build --help",
    ]


def test_other_choices_are_reported_and_their_order_does_not_matter() -> None:
    listed = read_help(["  --size {x,y}", "  --shape {a,b}"])
    recorded = {"--size": Flag("--size", choices=("y", "z")), "--shape": Flag("--shape", choices=("b", "a"))}
    assert list(compare_flags(listed, recorded, "record")) == [
        "--size takes x, y by trtllm-build --help and y, z by the record"
    ]


def test_an_alias_is_the_same_flag() -> None:
    listed = read_help(["  --max_seq_len N, --max_decoder_seq_len N"])
    recorded = {"--max_decoder_seq_len": Flag("--max_decoder_seq_len", aliases=("--max_seq_len",))}
    assert list(compare_flags(listed, recorded, "record")) == []


# Probing


@pytest.mark.parametrize("release", releases())
def test_the_help_of_every_release_is_read_whole(release: str) -> None:
    found, recorded = read_help(parser(release, BUILD).format_help().splitlines()), flags_of(release).value
    assert list(compare_flags(found, recorded, "record")) == []
    assert len(found) == len(recorded)


@pytest.mark.parametrize("release", ["0.8.0", "0.16.0", "1.2.1"])
def test_the_flags_of_a_toolchain_are_those_recorded_of_its_release(
    release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path(tmp_path, release, monkeypatch)
    found = probed(release)
    assert (found.verdict, found.reason) == ("engine", "")
    assert found.disagreements == ()  # so exactly the recorded flags were read


def test_a_release_without_a_builder_runs_checkpoints_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = make_release(tmp_path / "release", "1.4.0rc1")
    monkeypatch.setenv("PATH", stand_in.environment()["PATH"])
    found = probed("1.4.0rc1")
    assert (found.verdict, found.reason) == ("checkpoint-only", "there is no trtllm-build in it")
    assert found.disagreements == ()


def test_a_builder_that_is_missing_where_it_is_recorded_is_reported_by_probe_check_and_record(
    stand_in: StandIn,
) -> None:
    (stand_in.bin / "trtllm-build").unlink()
    problem = "1.2.1 is recorded as building engines, but there is no trtllm-build"
    found = probed("1.2.1")
    assert (found.verdict, found.disagreements) == ("checkpoint-only", (problem,))
    report = toolchains.check("tensorrt-llm-1.2.1", "host")
    assert report.verdict == "checkpoint-only (there is no trtllm-build in it)"
    assert report.disagreements == (problem,)
    assert report.packages["tensorrt-llm"] == "1.2.1"
    toolchain = toolchains.ensure(toolchains.identify("tensorrt-llm-1.2.1", "host"))
    kept = toolchains.known_facts(toolchain)
    assert (kept["verdict"], kept["disagreements"]) == ("checkpoint-only", problem)


def test_a_builder_that_fails_makes_the_toolchain_unsupported(stand_in: StandIn) -> None:
    builder = stand_in.bin / "trtllm-build"
    builder.write_text("#!/bin/sh\necho 'error while loading shared libraries: libnvinfer.so.10'\nexit 127\n")
    found = probed("1.2.1")
    assert found.verdict == "unsupported"
    assert "a library it needs is missing" in found.reason


def test_flags_that_differ_from_the_record_are_reported_with_how_sure_it_is(stand_in: StandIn) -> None:
    builder = stand_in.bin / "trtllm-build"
    whole = builder.read_text()
    builder.write_text(
        whole.replace("exec ", "").rstrip()
        + " | sed -e 's/--workers WORKERS/--helpers HELPERS/' -e 's/float16,float32}/float16}/'\n"
    )
    found = probed("1.2.1")
    assert any(line.startswith("--helpers is listed") for line in found.disagreements)
    assert any(line.startswith("--workers is in the recorded facts of 1.2.1, inferred") for line in found.disagreements)
    assert any("--logits_dtype takes float16 by" in line for line in found.disagreements)


# In a toolchain's report and in a step's record


@pytest.mark.usefixtures("stand_in")
def test_a_check_finds_the_release_on_path_by_itself() -> None:
    report = toolchains.check("tensorrt-llm-1.2.1")
    assert report.good
    assert report.verdict == "engine"
    assert not toolchains.check("tensorrt-llm-1.2.0").created


@pytest.mark.usefixtures("stand_in")
def test_what_a_step_records_of_a_host_names_versions_gpus_and_driver() -> None:
    toolchain = toolchains.ensure(toolchains.identify("tensorrt-llm-1.2.1", "host"))
    found = toolchains.known_facts(toolchain)
    assert found["tensorrt-llm"] == "1.2.1"
    assert found["tensorrt"] == "10.14.1.48"
    assert (found["gpu"], found["driver"]) == ("8 x NVIDIA H100 80GB HBM3", "550.54.15")


def test_what_a_step_records_of_a_host_names_what_it_can_do_and_what_was_not_expected(stand_in: StandIn) -> None:
    (stand_in.bin / "trtllm-build").unlink()
    toolchain = toolchains.ensure(toolchains.identify("tensorrt-llm-1.2.1", "host"))
    problem = "1.2.1 is recorded as building engines, but there is no trtllm-build"
    found = toolchains.known_facts(toolchain)
    assert (found["verdict"], found["disagreements"]) == ("checkpoint-only", problem)


def test_one_gpu_is_recorded_without_a_number_and_none_not_at_all(stand_in: StandIn) -> None:
    toolchain = toolchains.ensure(toolchains.identify("tensorrt-llm-1.2.1", "host"))
    stand_in.gpus({"name": "NVIDIA L4", "compute_cap": "8.9", "memory.total": "23034"})
    assert toolchains.known_facts(toolchain)["gpu"] == "NVIDIA L4"
    stand_in.gpus()
    assert not {"gpu", "driver"} & set(toolchains.known_facts(toolchain))


def test_a_module_that_does_not_import_makes_it_unsupported(stand_in: StandIn) -> None:
    toolchain = toolchains.ensure(toolchains.identify("tensorrt-llm-1.2.1", "host"))
    stand_in.misbehave("trtllm-build", "not_there")
    found = probe_release(toolchain)
    assert found.verdict == "unsupported"
    assert "tensorrt_llm cannot be imported" in found.reason

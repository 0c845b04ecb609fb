"""Tests of the command line: its output, and the exit codes that scripts use."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from enginery.core.errors import UsageError
from tests.support.paths import CHECKOUT
from tests.support.processes.command_line import Enginery, enginery

MODELS = CHECKOUT / "infra" / "models"
TINY = MODELS / "tiny-llama.yaml"

__all__ = ["enginery"]


def written(directory: Path, text: str) -> str:
    path = directory / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_plan_shows_steps_targets_and_notes(enginery: Enginery, capsys: pytest.CaptureFixture[str]) -> None:
    assert enginery("plan", str(TINY)) == 0
    shown = capsys.readouterr().out
    for text in ("tiny-llama", "download", "build/cpu-int4", "publish/cpu-fp32", "to run", "14 of 14 steps to run"):
        assert text in shown


def test_plan_warns_of_a_disk_that_is_too_small(
    enginery: Enginery, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert enginery("plan", str(TINY)) == 0
    assert "has 1.0 kB free" in capsys.readouterr().err


def test_plan_as_json_is_a_plan_that_run_step_reads(
    enginery: Enginery, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert enginery("plan", str(TINY), "--json") == 0
    plan = tmp_path / "plan.json"
    plan.write_text(capsys.readouterr().out)
    assert enginery("run-step", str(plan), "download", "--output", str(tmp_path / "weights"), "--json") == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["ran"] is True
    assert (tmp_path / "weights" / "model.safetensors").stat().st_size > 0


def test_plan_knows_what_is_done(enginery: Enginery, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    enginery("plan", str(TINY), "--json")
    plan = tmp_path / "plan.json"
    plan.write_text(capsys.readouterr().out)
    enginery("run-step", str(plan), "download")
    capsys.readouterr()
    assert enginery("plan", str(TINY)) == 0
    assert "13 of 14 steps to run" in capsys.readouterr().out


def test_plan_explains_why_a_step_must_run(enginery: Enginery, capsys: pytest.CaptureFixture[str]) -> None:
    assert enginery("plan", str(TINY), "--explain") == 0
    assert "download: the store has no download step yet" in capsys.readouterr().out


def test_plan_prints_commands(enginery: Enginery, capsys: pytest.CaptureFixture[str]) -> None:
    assert enginery("plan", str(TINY), "--commands") == 0
    assert "onnxruntime_genai.models.builder" in capsys.readouterr().out


def test_set_puts_a_value_into_the_spec(enginery: Enginery, capsys: pytest.CaptureFixture[str]) -> None:
    assert enginery("plan", str(TINY), "--set", "targets.1.precision=int8", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert [target["precision"] for target in plan["targets"]] == ["float32", "int8"]


def test_a_spec_with_mistakes_exits_with_2_and_names_each(
    enginery: Enginery, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    spec = written(tmp_path, "name: Bad Name\nsource: {}\ntargets: [{name: a, precision: int4, gpus: 1}]\n")
    assert enginery("plan", spec) == 2
    errors = capsys.readouterr().err
    for path in ("name:", "source:", "targets.0.gpus:"):
        assert path in errors
    assert "nothing was started" in errors


def test_an_unknown_gpu_is_reported_once_and_with_the_other_mistakes(
    enginery: Enginery, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = "name: a\nsource: {path: x}\ntargets: [{name: a, gpu: H9000, release: 9.9, precision: int4}]\n"
    assert enginery("plan", written(tmp_path, text)) == 2
    errors = capsys.readouterr().err
    assert errors.count("unknown GPU 'H9000'") == 1
    assert 'release: "9.9"' in errors


def test_an_engine_that_cannot_be_built_is_refused_with_a_code_and_a_remedy(
    enginery: Enginery, capsys: pytest.CaptureFixture[str]
) -> None:
    # The example model is part of the repository. Its longest sequence has 256 tokens.
    model = MODELS.parent.parent / "examples" / "tiny-llama" / "model"
    options = ["--set", "source.huggingface=null", "--set", f"source.path={model}", "--set", "build.max_seq_len=4096"]
    llama = str(MODELS / "llama-3-8b-instruct.yaml")
    assert enginery("plan", llama, *options) == 2
    assert "[W151]" in capsys.readouterr().err
    assert enginery("plan", llama, *options, "--force", "W151") == 0
    assert enginery("plan", llama, *options, "--force", "E110") == 2


def test_a_missing_model_directory_exits_with_3(
    enginery: Enginery, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = "name: a\nsource: {path: nowhere}\ntargets: [{name: a, gpu: cpu, precision: int4}]\n"
    assert enginery("plan", written(tmp_path, text)) == 3
    assert str(tmp_path / "nowhere") in capsys.readouterr().err


def test_an_unknown_step_exits_with_2_and_lists_the_steps(
    enginery: Enginery, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    enginery("plan", str(TINY), "--json")
    plan = tmp_path / "plan.json"
    plan.write_text(capsys.readouterr().out)
    assert enginery("run-step", str(plan), "build/h100") == 2
    assert "build/cpu-int4" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{}", "not json"])
def test_a_file_that_is_no_plan_exits_with_2(
    enginery: Enginery, capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str
) -> None:
    (tmp_path / "plan.json").write_text(text)
    assert enginery("run-step", str(tmp_path / "plan.json"), "download") == 2
    assert "enginery plan SPEC --json" in capsys.readouterr().err


@pytest.mark.parametrize("command", [("list",), ("show", "x"), ("lineage", "x")])
def test_a_command_on_the_registry_without_one_says_how_to_name_it(
    enginery: Enginery, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    assert enginery(*command) == 2
    assert "ENGINERY_REGISTRY" in capsys.readouterr().err


def test_toolchains_are_listed_with_their_state(enginery: Enginery, capsys: pytest.CaptureFixture[str]) -> None:
    assert enginery("toolchain", "list", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["onnxruntime-0.18"]["release"] == "0.18.0"
    assert rows["onnxruntime-0.18"]["created"] is False


def test_checking_a_toolchain_that_is_not_there_exits_with_5(
    enginery: Enginery, capsys: pytest.CaptureFixture[str]
) -> None:
    assert enginery("toolchain", "check", "onnxruntime-0.18") == 5
    assert "not made yet" in capsys.readouterr().out


def test_an_unknown_toolchain_is_refused_with_the_known_ones(
    enginery: Enginery, capsys: pytest.CaptureFixture[str]
) -> None:
    assert enginery("toolchain", "create", "nonsense") == 2
    assert "onnxruntime-0.18" in capsys.readouterr().err


def test_the_local_services_are_said_not_to_run(enginery: Enginery, capsys: pytest.CaptureFixture[str]) -> None:
    assert enginery("dev", "status") == 0
    assert "enginery dev up" in capsys.readouterr().out
    assert enginery("dev", "env") == 2


def test_doctor_reports_each_finding(enginery: Enginery, capsys: pytest.CaptureFixture[str]) -> None:
    assert enginery("doctor", "--json") == 0
    subjects = {finding["subject"] for finding in json.loads(capsys.readouterr().out)}
    assert {"python", "disk", "gpu", "prefect", "hugging face", "docker"} <= subjects


def test_doctor_fails_on_a_registry_that_cannot_be_reached(
    enginery: Enginery, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "0.2")
    assert enginery("doctor", "--registry", "s3://bucket/prefix") == 1
    assert "s3://bucket/prefix" in capsys.readouterr().out


def test_every_command_has_help(enginery: Enginery, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("build", "plan", "list", "show", "lineage", "rollout", "run-step", "demo", "doctor"):
        assert enginery(command, "--help") == 0
        assert "Usage: enginery" in capsys.readouterr().out


def test_the_exit_codes_are_in_the_help(enginery: Enginery, capsys: pytest.CaptureFixture[str]) -> None:
    assert enginery("--help") == 0
    assert "Exit codes" in capsys.readouterr().out


def test_an_unknown_option_exits_with_2(enginery: Enginery) -> None:
    assert enginery("plan", str(TINY), "--nonsense") == 2


def test_a_build_without_the_flow_says_what_to_install(
    enginery: Enginery, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginery.cli.options.entry_points", lambda **_: ())
    assert enginery("build", str(TINY)) == 2
    assert "the flow 'build' is not installed" in capsys.readouterr().err


def test_notes_of_an_error_are_shown(
    enginery: Enginery, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        error = UsageError("cannot", remedy="do this")
        error.add_note("whole log: there.log")
        raise error

    monkeypatch.setattr("enginery.cli.app._read_spec", fail)
    assert enginery("plan", str(TINY)) == 2
    assert "whole log: there.log" in capsys.readouterr().err


def test_an_interrupt_exits_with_130(
    enginery: Enginery, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("enginery.cli.app._read_spec", interrupted)
    assert enginery("plan", str(TINY)) == 130


@pytest.mark.parametrize("group", [(), ("dev",), ("toolchain",)])
def test_help_says_what_each_command_does_in_one_uncut_line(
    enginery: Enginery, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, group: tuple[str, ...]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert enginery(*group, "--help") == 0
    commands = capsys.readouterr().out.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert len(commands) >= 3
    assert all(line.startswith("  ") and line.endswith(".") and not line.endswith("...") for line in commands)


def test_run_step_says_in_one_line_what_is_wrong_with_a_plan_file(
    enginery: Enginery, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert enginery("run-step", str(TINY), "download") == 2
    assert enginery("run-step", str(tmp_path / "nowhere.json"), "download") == 2
    no_plan, missing = capsys.readouterr().err.strip().split("\nerror: ")
    assert "is not a plan: Invalid JSON" in no_plan
    assert "cannot be read: No such file" in missing
    assert len(no_plan.splitlines()) == len(missing.splitlines()) == 2


@pytest.mark.parametrize("command", [("build", str(TINY)), ("demo",), ("dev", "up")])
def test_without_prefect_its_extra_is_named(
    enginery: Enginery,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
) -> None:
    monkeypatch.setattr("enginery.cli.options.find_spec", lambda name: None if name == "prefect" else name)
    assert enginery(*command) == 2
    assert "this needs prefect, not installed here" in capsys.readouterr().err

"""Tests of `enginery releases`: its output, and what another release changes for a spec."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from enginery.pipeline.explain import spec_changes
from enginery.spec.spec import parse_spec
from tests.support.paths import CHECKOUT
from tests.support.plans.plan import spec_data
from tests.support.processes.command_line import Enginery, enginery

LLAMA = CHECKOUT / "infra" / "models" / "llama-3-8b-instruct.yaml"

__all__ = ["enginery"]

Releases = Enginery


@pytest.fixture
def releases(enginery: Enginery) -> Releases:
    """Runs `enginery releases` in this process. Returns its exit code."""
    return partial(enginery, "releases")


def spec(*targets: dict[str, Any], **changes: Any) -> Any:
    base = {"gpu": "H100-SXM5-80GB", "backend": "tensorrt", "precision": "bfloat16"}
    made = [base | {"name": f"target-{number}"} | one for number, one in enumerate(targets)]
    return parse_spec(spec_data(targets=made, rollout=None, **changes))


def test_the_list_has_a_line_for_each_release(releases: Releases, capsys: pytest.CaptureFixture[str]) -> None:
    assert releases() == 0
    lines = capsys.readouterr().out.splitlines()
    (newest,) = [line for line in lines if line.startswith("1.2.1 ")]
    assert newest.split()[1] == "inferred"
    assert "26.07-trtllm-python-py3" in newest
    (unsure,) = [line for line in lines if line.startswith("0.18.1 ")]
    assert "10.9*" in unsure


def test_the_list_as_json(releases: Releases, capsys: pytest.CaptureFixture[str]) -> None:
    assert releases("--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["release"] for row in rows][:2] == ["1.3.0rc3", "1.2.1"]
    assert rows[-1]["container"] == "24.02-trtllm-python-py3"


def test_a_release_on_a_page(releases: Releases, capsys: pytest.CaptureFixture[str]) -> None:
    assert releases("show", "1.2.1") == 0
    shown = capsys.readouterr().out
    for text in ("10.14.1.48", "compute capability 12.0", "nvfp4", "llama", "67 flags", "nearest: known of 1.3.0rc3"):
        assert text in shown


def test_a_release_as_json_says_how_each_thing_is_known(releases: Releases, capsys: pytest.CaptureFixture[str]) -> None:
    assert releases("show", "0.17.0", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["precisions"]["10.0"]["certainty"] == "inferred"
    assert shown["pins"]["tensorrt"] == {"value": "10.8.0", "certainty": "rendered", "of": "0.17.0", "note": ""}
    assert shown["trtllm-build"]["certainty"] == "nearest"


def test_a_release_without_the_builder_says_what_to_use(releases: Releases, capsys: pytest.CaptureFixture[str]) -> None:
    assert releases("show", "1.3.0rc22") == 0
    assert "use the backend pytorch" in capsys.readouterr().out


def test_the_difference_for_a_spec(releases: Releases, capsys: pytest.CaptureFixture[str]) -> None:
    assert releases("diff", "0.8.0", "1.2.1", str(LLAMA)) == 0
    shown = capsys.readouterr().out
    for text in ("--timing_cache", "--kv_cache_type", "gemm_plugin: bfloat16", "default 1 -> 2048", "max_seq_len"):
        assert text in shown


def test_the_difference_as_json(releases: Releases, capsys: pytest.CaptureFixture[str]) -> None:
    assert releases("diff", "0.16.0", "1.2.1", str(LLAMA), "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert {one["flag"]["name"] for one in shown["removed"]} == {"--auto_parallel", "--gpus_per_node", "--cluster_key"}
    assert shown["spec"]["unset"] == [
        "tokens_per_block: 64 -> 32",
        "use_paged_context_fmha: false -> true",
        "use_fp8_context_fmha: false -> true",
    ]
    assert shown["new"]["certainty"] == "inferred"


def test_the_difference_of_another_command(releases: Releases, capsys: pytest.CaptureFixture[str]) -> None:
    assert releases("diff", "0.16.0", "1.3.0rc3", "--command", "quantize.py") == 0
    shown = capsys.readouterr().out
    assert "--device_map" in shown
    assert "choices + nvfp4, fp8_pc_pt" in shown


def test_no_difference_is_said(releases: Releases, capsys: pytest.CaptureFixture[str]) -> None:
    assert releases("diff", "1.0.0", "1.1.0") == 0
    assert "no flag changes" in capsys.readouterr().out


def test_a_command_that_is_gone_is_one_line(releases: Releases, capsys: pytest.CaptureFixture[str]) -> None:
    assert releases("diff", "1.2.1", "1.3.0rc21", str(LLAMA)) == 0
    shown = capsys.readouterr().out
    assert "1.3.0rc21 has no trtllm-build" in shown
    assert "--max_batch_size" not in shown


@pytest.mark.parametrize(
    "arguments",
    [("show", "0.7.0"), ("show", "latest"), ("diff", "0.8.0", "x"), ("diff", "1.0", "1.1", "--command", "x")],
)
def test_bad_input_is_one_message_and_exit_code_2(
    releases: Releases, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert releases(*arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert "->" in shown


def test_unset_fields_that_change_their_meaning() -> None:
    found = spec_changes(spec({}), "0.10.0", "0.14.0")
    assert "max_batch_size: 1 -> 2048" in found.unset
    assert "max_num_tokens: none -> 8192" in found.unset
    assert "gpt_attention_plugin: float16 -> auto" in found.unset
    assert not found.fields


def test_a_field_that_is_set_does_not_change_its_meaning() -> None:
    found = spec_changes(spec({}, build={"tokens_per_block": 64}), "0.16.0", "1.2.1")
    assert "tokens_per_block: 64 -> 32" not in found.unset
    (field,) = found.fields
    assert (field.field, field.effect) == ("tokens_per_block", "kept")


@pytest.mark.parametrize(
    ("build", "old", "new", "effect", "text"),
    [
        ({"kv_cache_type": "paged"}, "0.12.0", "0.13.0", "translated", "for 0.13.0 this is --kv_cache_type paged"),
        ({"max_seq_len": 4096}, "0.10.0", "0.12.0", "translated", "for 0.12.0 this is --max_seq_len 4096"),
        ({"enable_xqa": True}, "0.15.0", "0.16.0", "left out", "0.16.0 does this without a flag"),
        ({"enable_xqa": False}, "0.15.0", "0.16.0", "gone", "0.16.0 has no --enable_xqa, which went after 0.15.0"),
        ({"user_buffer": True}, "0.15.0", "0.16.0", "new", "0.16.0 has this field, the old release does not"),
        ({"builder_force_num_profiles": 2}, "0.14.0", "0.15.0", "translated", "BUILDER_FORCE_NUM_PROFILES=2"),
        ({"gemm_plugin": "auto"}, "0.10.0", "0.11.0", "translated", "for 0.11.0 this is --gemm_plugin auto"),
    ],
)
def test_what_becomes_of_a_field(build: dict[str, Any], old: str, new: str, effect: str, text: str) -> None:
    (field,) = spec_changes(spec({}, build=build), old, new).fields
    assert field.effect == effect
    assert text in field.text


def test_a_value_that_the_new_release_does_not_take() -> None:
    found = spec_changes(spec({}, build={"gemm_plugin": "nvfp4"}), "1.2.1", "0.16.0")
    (field,) = found.fields
    assert field.effect == "refused"
    assert "0.16.0 does not take nvfp4 for --gemm_plugin, only auto" in field.text


def test_a_field_that_only_some_targets_set() -> None:
    found = spec_changes(spec({"build": {"tokens_per_block": 64}}, {}), "0.16.0", "1.2.1")
    assert found.some_unset == (("tokens_per_block: 64 -> 32", ("target-1",)),)


def test_a_field_whose_command_is_gone() -> None:
    found = spec_changes(spec({}, build={"gemm_plugin": "bfloat16"}), "1.2.1", "1.3.0rc21")
    assert [one.effect for one in found.fields] == ["gone"]
    assert found.unset == ()


def test_targets_of_other_backends_are_left_alone() -> None:
    made = spec({"backend": "onnxruntime", "gpu": "cpu", "precision": "int4"}, build={"gemm_plugin": "bfloat16"})
    found = spec_changes(made, "0.10.0", "1.2.1")
    assert (found.fields, found.unset, found.some_unset) == ((), (), ())


def test_a_plan_does_not_read_any_of_it(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "def told(event, arguments):\n"
        "    if event == 'open' and '/releases/data/' in str(arguments[0]) and str(arguments[0]).endswith('.json'):\n"
        "        print('read', arguments[0], file=sys.stderr)\n"
        "sys.addaudithook(told)\n"
        f"sys.argv = ['enginery', 'plan', {str(LLAMA.with_name('tiny-llama.yaml'))!r}, '--json']\n"
        "from enginery.cli.app import main\n"
        "main_exit = None\n"
        "try:\n    main()\nexcept SystemExit as end:\n    main_exit = end.code\n"
        "assert not main_exit, main_exit\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert "read" not in done.stderr

"""Tests of the commands for channels and builds: their output, and the exit codes that scripts use."""

import json
import subprocess
import sys

import pytest

from enginery.registry import Registry
from enginery.registry.layout import channel_path, manifest_path
from tests.support.processes.command_line import Enginery, enginery
from tests.support.registry.manifests import a_build, put
from tests.support.s3.fixtures import bucket, server

__all__ = ["bucket", "enginery", "server"]

FIRST, SECOND = "h100-aaaaaaaaaaaa", "h100-bbbbbbbbbbbb"


@pytest.fixture
def registry(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("ENGINERY_WHO", "ada@lab")
    monkeypatch.setenv("ENGINERY_REGISTRY", f"s3://{bucket}/prod")
    opened = Registry(f"s3://{bucket}/prod")
    put(opened, a_build(build_id=FIRST), a_build(build_id=SECOND, release="1.3.0"), a_build("bad", passed=False))
    return opened


@pytest.mark.usefixtures("registry")
def test_promote_says_what_it_did(enginery: Enginery, capsys: pytest.CaptureFixture[str]) -> None:
    assert enginery("promote", FIRST, "stable") == 0
    assert capsys.readouterr().out == f"llama@stable/h100 is {FIRST}\n"
    assert enginery("promote", f"llama/{SECOND}", "stable", "--reason", "newer", "--json") == 0
    pointer = json.loads(capsys.readouterr().out)
    assert (pointer["build_id"], pointer["previous"]) == (SECOND, FIRST)
    assert pointer["history"][-1]["reason"] == "newer"


@pytest.mark.usefixtures("registry")
def test_promote_refuses_a_failed_gate_and_records_force(
    enginery: Enginery, capsys: pytest.CaptureFixture[str]
) -> None:
    assert enginery("promote", "bad", "stable") == 8
    assert "failed a gate: validation" in capsys.readouterr().err
    assert enginery("promote", "bad", "stable", "--force") == 2
    assert enginery("promote", "bad", "stable", "--force", "--reason", "the prompt is wrong") == 0
    assert "forced although it failed a gate" in capsys.readouterr().err
    assert enginery("channels", "llama", "--history") == 0
    assert "the prompt is wrong; forced: validation: 1 of 1 answers" in capsys.readouterr().out


@pytest.mark.usefixtures("registry")
def test_demote_goes_back(enginery: Enginery, capsys: pytest.CaptureFixture[str]) -> None:
    enginery("promote", FIRST, "stable")
    enginery("promote", SECOND, "stable")
    capsys.readouterr()
    assert enginery("demote", "llama@stable/h100", "--if-now", FIRST) == 8
    assert enginery("demote", "llama@stable/h100", "--if-now", SECOND) == 0
    assert capsys.readouterr().out == f"llama@stable/h100 is {FIRST}, it was {SECOND}\n"
    assert enginery("demote", "llama@stable") == 8


@pytest.mark.usefixtures("registry")
def test_channels_are_shown_with_since_when_by_whom_and_from_what(
    enginery: Enginery, capsys: pytest.CaptureFixture[str]
) -> None:
    enginery("promote", FIRST, "stable")
    enginery("promote", SECOND, "stable")
    enginery("promote", FIRST, "candidate")
    capsys.readouterr()
    assert enginery("channels", "llama") == 0
    heading, candidate, stable = capsys.readouterr().out.splitlines()
    assert heading.split() == ["channel", "target", "build", "since", "by", "how", "from"]
    assert candidate.split()[:3] == ["candidate", "h100", FIRST]
    assert stable.split()[:3] == ["stable", "h100", SECOND]
    assert stable.split()[-3:] == ["ada@lab", "promote", FIRST]
    assert enginery("channels", "llama", "--history") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[4] for line in lines if "promote" in line] == [FIRST, SECOND, FIRST]


def test_a_channel_that_is_not_sound_is_named_and_the_others_are_shown(
    registry: Registry, enginery: Enginery, capsys: pytest.CaptureFixture[str]
) -> None:
    enginery("promote", FIRST, "stable")
    path = channel_path("llama", "broken", "h100")
    registry.prefix.put_bytes(path, b"{}")
    capsys.readouterr()
    assert enginery("channels", "llama") == 8
    shown = capsys.readouterr()
    assert FIRST in shown.out
    assert f"{registry.prefix.where(path)}: is not a channel pointer" in shown.err


def test_one_manifest_that_is_not_sound_is_named_and_the_other_builds_are_listed(
    registry: Registry, enginery: Enginery, capsys: pytest.CaptureFixture[str]
) -> None:
    assert enginery("list") == 0
    capsys.readouterr()
    path = manifest_path("llama", "h100-broken")
    registry.prefix.put_bytes(path, b"not json")
    assert enginery("list") == 8
    shown = capsys.readouterr()
    assert all(build in shown.out for build in (FIRST, SECOND, "bad-0123456789ab"))
    assert f"{registry.prefix.where(path)}: is not JSON" in shown.err
    assert enginery("list", "--json") == 8
    assert len(json.loads(capsys.readouterr().out)) == 3


@pytest.mark.usefixtures("registry")
def test_resolve_prints_the_build_for_scripts_and_the_rest_beside_it(
    enginery: Enginery, capsys: pytest.CaptureFixture[str]
) -> None:
    enginery("promote", FIRST, "stable")
    capsys.readouterr()
    assert enginery("resolve", "llama", "--channel", "stable", "--gpu", "h100 sxm5 80gb") == 0
    shown = capsys.readouterr()
    assert shown.out == f"llama/{FIRST}\n"
    assert "h100: tensorrt 1.2.1, bfloat16, 1 x H100-SXM5-80GB" in shown.err
    assert "on stable since" in shown.err
    assert enginery("resolve", "llama", "--gpu", "H100-SXM5-80GB", "--runtime", "1.3.0", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["build_id"], found["channel"], found["warnings"]) == (SECOND, None, [])
    assert found["target"]["world_size"] == 1


@pytest.mark.usefixtures("registry")
def test_resolve_exits_with_8_and_the_near_misses_or_with_2_for_what_cannot_be_meant(
    enginery: Enginery, capsys: pytest.CaptureFixture[str]
) -> None:
    assert enginery("resolve", "llama", "--gpu", "L40S") == 8
    errors = capsys.readouterr().err
    assert errors.startswith("error: llama, gpu L40S: no build fits; the nearest:\n")
    assert f"  llama/{FIRST}: built for compute capability 9.0 (H100-SXM5-80GB), this GPU is 8.9 (L40S)\n" in errors
    assert enginery("resolve", "llama", "--gpu", "L40S", "--backend", "tensor") == 2


@pytest.mark.parametrize("command", [("promote", "x", "y"), ("demote", "x"), ("channels", "x"), ("resolve", "x")])
def test_each_command_asks_for_a_registry(
    enginery: Enginery, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.delenv("ENGINERY_REGISTRY", raising=False)
    assert enginery(*command) == 2
    assert "ENGINERY_REGISTRY" in capsys.readouterr().err


def test_the_package_gives_the_registry_without_importing_it_beforehand() -> None:
    script = "import sys, enginery; before = 'pydantic' in sys.modules; print(before, enginery.Registry.__name__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False Registry\n"


def test_the_package_has_no_other_names() -> None:
    import enginery
    import enginery.registry

    for package in (enginery, enginery.registry):
        with pytest.raises(AttributeError, match="nonsense"):
            _ = package.nonsense

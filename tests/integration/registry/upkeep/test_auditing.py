"""Tests of `verify --all` on a real S3 API."""

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from enginery.cli.app import app
from enginery.core.errors import RegistryError
from enginery.registry import Registry
from enginery.registry.upkeep import auditing, verifying
from enginery.registry.upkeep.auditing import audit
from tests.support.http.faulty_proxy import Fault, Proxy
from tests.support.registry.builds import Build
from tests.support.registry.upkeep import (
    a_claim,
    begin_upload,
    build_id,
    claim_path,
    objects,
    publish_builds,
    put_build,
    remove,
    write,
)
from tests.support.s3.fixtures import bucket, proxy, server
from tests.support.s3.server import S3Server

__all__ = ["bucket", "proxy", "server"]

HOME = f"models/tiny-llama/builds/{build_id(1)}"
FILE = f"{HOME}/model_repository/a/config.pbtxt"
CHANNEL = "models/tiny-llama/channels/candidate/cpu-int4.json"


@pytest.fixture
def address(bucket: str) -> str:
    return f"s3://{bucket}/prod"


def found(address: str, model: str | None = None) -> list[tuple[str, str, str]]:
    problems = audit(Registry(address), model).problems
    return [(problem.level, problem.subject, problem.problem) for problem in problems]


def test_a_sound_registry_has_no_problems_and_every_byte_was_read(address: str, proxy: Proxy) -> None:
    Build().publish(address)
    manifest = Registry(address).builds()[0]
    proxy.requests.clear()
    result = audit(Registry(address))
    assert result.problems == ()
    assert not result.damaged
    assert (result.builds, result.bytes) == (1, manifest.size)
    described = Registry(address).manifest(manifest.model, manifest.build_id)
    for file in described.files:
        assert proxy.count("GET", f"/{file.path}")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"Config", "sha256 is "),
        (b"conf", "has 4 bytes, not 6"),
        (b"", "has 0 bytes, not 6"),
        (b"config and more", "has 15 bytes, not 6"),
        (None, "is missing"),
    ],
)
def test_a_changed_file_is_damage(server: S3Server, address: str, data: bytes | None, problem: str) -> None:
    publish_builds(address, 2)
    if data is None:
        remove(server, address, FILE)
    else:
        write(server, address, FILE, data)
    ((level, subject, text),) = found(address)
    assert (level, subject) == ("damage", f"tiny-llama/{build_id(1)}/model_repository/a/config.pbtxt")
    assert problem in text


def test_every_single_flipped_bit_is_found(server: S3Server, address: str) -> None:
    publish_builds(address, 1)
    for path, data in objects(server, address).items():
        if path in {FILE, f"{HOME}/report.json"}:
            write(server, address, path, data[:-1] + bytes([data[-1] ^ 1]))
            assert [level for level, _, _ in found(address)] == ["damage"], path
            write(server, address, path, data)
    assert found(address) == []


def test_a_byte_that_was_turned_on_its_way_is_no_damage(address: str, proxy: Proxy) -> None:
    publish_builds(address, 1)
    proxy.drops.add("x-amz-checksum-mode")
    proxy.fail(Fault("flip", matches=lambda _, path: path.endswith("config.pbtxt")))
    assert found(address) == []


@pytest.mark.parametrize("kind", ["truncate", "reset", "answer"])
def test_an_answer_that_breaks_off_is_asked_for_again(address: str, proxy: Proxy, kind: Any) -> None:
    publish_builds(address, 1)
    proxy.fail(Fault(kind, matches=lambda _, path: path.endswith("config.pbtxt")))
    assert found(address) == []


@pytest.mark.parametrize("data", [b"{", b'{"schema_version": 99}', b'{"schema_version": 1}', b"[]"])
def test_a_manifest_that_is_none_is_damage(server: S3Server, address: str, data: bytes) -> None:
    publish_builds(address, 2)
    write(server, address, f"{HOME}/manifest.json", data)
    assert [(level, subject) for level, subject, _ in found(address)] == [("damage", f"tiny-llama/{build_id(1)}")]


def test_a_manifest_of_another_build_is_damage(server: S3Server, address: str) -> None:
    publish_builds(address, 2)
    other = objects(server, address)[f"models/tiny-llama/builds/{build_id(2)}/manifest.json"]
    write(server, address, f"{HOME}/manifest.json", other)
    assert "describes another build" in found(address)[0][2]


def test_a_channel_at_a_build_that_is_not_there_is_damage(server: S3Server, address: str) -> None:
    publish_builds(address, 1)
    remove(server, address, f"{HOME}/manifest.json")
    damage, leftover = found(address)
    assert damage == ("damage", "tiny-llama@candidate/cpu-int4", f"points at {build_id(1)}, which is not there")
    assert leftover == ("leftover", f"tiny-llama/{build_id(1)}", "has 2 files and no manifest")


def test_a_channel_that_cannot_be_read_is_damage(server: S3Server, address: str) -> None:
    publish_builds(address, 1)
    write(server, address, CHANNEL, b"{}")
    assert found(address) == [("damage", f"{address}/{CHANNEL}", "is not a channel pointer")]


def test_what_belongs_to_nothing_is_named_and_is_no_damage(server: S3Server, address: str) -> None:
    publish_builds(address, 1)
    for path in (f"{HOME}/model_repository/extra", "models/readme.txt", ".probe-1-1", claim_path(build_id(1))):
        write(server, address, path, b"x")
    begin_upload(server, address, f"{HOME}/model_repository/big")
    result = audit(Registry(address))
    assert not result.damaged
    assert {problem.subject for problem in result.problems} == {
        f"tiny-llama/{build_id(1)}/model_repository/extra",
        "models/readme.txt",
        ".probe-1-1",
        f"tiny-llama/{build_id(1)}/publishing.json",
        f"{HOME}/model_repository/big",
    }


def test_a_build_on_its_way_and_a_signature_are_no_leftovers(server: S3Server, address: str) -> None:
    publish_builds(address, 1)
    write(server, address, f"{HOME}/signatures/model.sig", b"signature")
    write(server, address, claim_path(build_id(2)), a_claim())
    write(server, address, f"models/tiny-llama/builds/{build_id(2)}/model_repository/a", b"half")
    assert found(address) == []


def test_only_the_model_that_is_named_is_read(server: S3Server, address: str) -> None:
    publish_builds(address, 1)
    put_build(address, build_id(1), model="other")
    remove(server, address, FILE)
    assert found(address, "other") == []
    assert [level for level, _, _ in found(address, "tiny-llama")] == ["damage"]


def test_a_registry_that_may_not_be_read_is_an_error_and_no_finding(address: str, proxy: Proxy) -> None:
    publish_builds(address, 1)
    body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    proxy.fail(Fault("answer", times=100, status=403, body=body, matches=lambda _, path: path.endswith("config.pbtxt")))
    with pytest.raises(RegistryError, match="not allowed"):
        audit(Registry(address))
    proxy.faults.clear()
    proxy.fail(
        Fault("answer", times=100, status=403, body=body, matches=lambda _, path: path.endswith("manifest.json"))
    )
    with pytest.raises(RegistryError, match="not allowed"):
        audit(Registry(address))


# The command


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["verify", *arguments])


def test_the_command_ends_with_the_registrys_exit_code_when_there_is_damage(server: S3Server, address: str) -> None:
    publish_builds(address, 1)
    sound = run("--all", "--registry", address)
    assert sound.exit_code == 0
    assert "1 builds, 2 files" in sound.stdout
    remove(server, address, FILE)
    damaged = run("--all", "--registry", address)
    assert damaged.exit_code == RegistryError.exit_code
    assert "damage   tiny-llama/" in damaged.stdout
    result = run("tiny-llama", "--all", "--registry", address, "--json")
    assert result.exit_code == RegistryError.exit_code
    assert [problem["level"] for problem in json.loads(result.stdout)["problems"]] == ["damage"]


def test_the_command_asks_which_builds(address: str) -> None:
    assert "no build is named" in str(run("--registry", address).exception)


@pytest.mark.parametrize("when", ["before its files are listed", "before they are read"])
def test_a_build_that_is_pruned_meanwhile_is_no_damage_and_ends_no_audit(
    server: S3Server, address: str, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    Build().publish(address)
    Build(build_id=build_id(2)).publish(address)
    prefix = Registry(address).build_prefix("tiny-llama", build_id(1))
    examine = verifying._examine_object

    def prune_it(*arguments: Any) -> Any:
        for entry in list(prefix.list()):
            prefix.delete(entry.path)

    def examined(*arguments: Any) -> Any:
        prune_it()
        return examine(*arguments)

    if when == "before they are read":
        monkeypatch.setattr(verifying, "_examine_object", examined)
    else:
        verify = verifying.verify_build
        monkeypatch.setattr(auditing, "verify_build", lambda *given: (prune_it(), verify(*given))[1])
    result = audit(Registry(address), "tiny-llama")
    assert not result.damaged
    assert result.builds == 2


def test_a_file_that_is_gone_while_it_is_read_is_damage_of_a_build_that_stays(
    server: S3Server, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Build().publish(address)
    examine = verifying._examine_object

    def examined(source: Any, file: Any, size: Any) -> Any:
        if file.path.endswith("config.pbtxt"):
            source.delete(file.path)
        return examine(source, file, size)

    monkeypatch.setattr(verifying, "_examine_object", examined)
    ((level, subject, problem),) = found(address)
    assert (level, problem) == ("damage", "is not there")
    assert subject.endswith("config.pbtxt")

"""Tests of pulls that must fail, and of what they leave."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from enginery.builds.bundle import SignatureFile
from enginery.builds.keys import Policy
from enginery.builds.manifest import Manifest
from enginery.core.digests import bytes_digest
from enginery.core.errors import RegistryError
from enginery.core.progress import no_log
from enginery.core.s3.objects import Prefix
from enginery.registry import Registry
from enginery.registry.pulling import pull
from enginery.registry.resolving.query import BuildQuery
from enginery.registry.resolving.resolve import choose_build
from enginery.registry.upkeep.verifying import verify_directory
from tests.support.http.faulty_proxy import Fault, Proxy
from tests.support.registry.builds import Build
from tests.support.registry.pulls import ENGINE, EngineBuild, address, registry, snapshot, some_bytes
from tests.support.s3.fixtures import bucket, proxy, server

__all__ = ["address", "bucket", "proxy", "registry", "server"]

FIRST, SECOND = (f"cpu-int4-{number * 12}" for number in "12")
REFERENCE = f"tiny-llama/{FIRST}"
MB = 1 << 20
DENIED = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"


def republish(registry: Registry, change: Callable[[dict[str, Any]], object]) -> None:
    """Write the manifest of the first build again with changes, as an attacker or a bug would."""
    source = registry.build_prefix("tiny-llama", FIRST)
    plain = json.loads(source.get_bytes("manifest.json") or b"")
    change(plain)
    source.put_bytes("manifest.json", json.dumps(plain).encode())


def rename_file(path: str, number: int = 0) -> Callable[[dict[str, Any]], object]:
    return lambda plain: plain["files"][number].update(path=path)


def add_file(path: str) -> Callable[[dict[str, Any]], object]:
    return lambda plain: plain["files"].append({"path": path, "sha256": bytes_digest(b""), "size": 0})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (rename_file("../outside"), "not a path inside the build"),
        (rename_file("model_repository/../../outside"), "not a path inside the build"),
        (rename_file("/etc/outside"), "not a path inside the build"),
        (rename_file("model_repository//config.pbtxt"), "not a path inside the build"),
        (rename_file("model\\..\\outside"), "not a path inside the build"),
        (rename_file("bad\0name"), "not a path inside the build"),
        (add_file("report.json"), "same path"),
        (add_file("REPORT.JSON"), "upper and lower case"),
        (add_file("Manifest.json"), "upper and lower case"),
        (add_file("report.json/inside"), "the directory of"),
        (add_file("pulled.json"), "a name that a pull needs: pulled.json"),
        (lambda plain: plain["files"][0].update(size=-1), "is negative"),
        (lambda plain: plain["files"][0].update(sha256="0"), "is not 64 hex digits"),
        (lambda plain: plain.update(schema_version=99), "was written by a newer Enginery"),
        (lambda plain: plain.update(schema_version="1"), "no schema_version"),
        (lambda plain: plain.update(build_id="another"), "describes another build"),
        (lambda plain: plain.update(surprise=1), "not a valid manifest: surprise"),
    ],
)
def test_a_manifest_that_is_not_sound_is_refused_before_anything_is_made(
    registry: Registry, address: str, tmp_path: Path, change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    Build().publish(address)
    republish(registry, change)
    with pytest.raises(RegistryError, match=problem) as caught:
        pull(registry, registry.find(REFERENCE), tmp_path / "models")
    assert caught.value.remedy
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("difference", [-1, 1])
def test_an_object_of_another_size_than_the_manifest_says_is_refused(
    registry: Registry, address: str, tmp_path: Path, difference: int
) -> None:
    Build().publish(address)
    republish(registry, lambda plain: plain["files"][0].update(size=plain["files"][0]["size"] + difference))
    with pytest.raises(RegistryError, match="that were recorded"):
        pull(registry, registry.find(REFERENCE), tmp_path / "models")
    assert not (tmp_path / "models/current").exists()


def test_a_manifest_that_changes_after_it_was_looked_up_is_refused(
    registry: Registry, address: str, tmp_path: Path
) -> None:
    manifest = Build().publish(address)
    republish(registry, lambda plain: plain.update(channel="another"))
    with pytest.raises(RegistryError, match="was replaced since it was looked up"):
        pull(registry, manifest, tmp_path / "models")
    registry.build_prefix("tiny-llama", FIRST).delete("manifest.json")
    with pytest.raises(RegistryError, match="is not there any more"):
        pull(registry, manifest, tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_build_that_is_not_trusted_is_refused_before_anything_is_fetched(
    registry: Registry, address: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Build().publish(address)
    before = proxy.count("GET")
    calls: list[tuple[str, bytes]] = []

    def refuse(source: Prefix, data: bytes, _: Policy) -> list[tuple[str, bytes]]:
        calls.append((str(source.address), data))
        raise RegistryError("no trusted key has signed this")

    monkeypatch.setattr("enginery.registry.pulling.require_signed", refuse)
    with pytest.raises(RegistryError, match="no trusted key"):
        pull(registry, manifest, tmp_path / "models")
    assert calls == [(f"{address}/models/tiny-llama/builds/{FIRST}", manifest.to_json())]
    assert proxy.count("GET") == before + 1
    assert not (tmp_path / "models").exists()


def test_the_signature_that_counts_is_kept_and_checked_with_the_build(
    registry: Registry, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Build().publish(address)
    signature_file = SignatureFile("signatures/a.sig", b"signed")
    monkeypatch.setattr("enginery.registry.pulling.require_signed", lambda *_: [signature_file])
    pull(registry, manifest, tmp_path / "models")
    signature = tmp_path / "models/current/signatures/a.sig"
    assert signature.read_bytes() == b"signed"
    assert verify_directory(tmp_path / "models") == []
    signature.unlink()
    assert [damage.kind for damage in verify_directory(tmp_path / "models")] == ["missing"]


def test_a_channel_that_moves_meanwhile_does_not_change_what_is_pulled(
    registry: Registry, address: str, tmp_path: Path
) -> None:
    Build().publish(address)
    manifest, channel = choose_build(registry, BuildQuery(model="tiny-llama@candidate/cpu-int4"), no_log)

    class Moving:
        """Publishes another build to the channel as soon as the first file has arrived."""

        moved = False

        def begin(self, what: str, *, files: int, size: int) -> None: ...

        def add(self, size: int) -> None: ...

        def end_file(self) -> None:
            if not self.moved:
                self.moved = True
                Build(build_id=SECOND, answers={"Who?": "the other"}).publish(address)

    pulled = pull(registry, manifest, tmp_path / "models", channel=channel, progress=Moving())
    pointer = registry.channel("tiny-llama", "candidate", "cpu-int4")
    assert pointer is not None
    assert pointer.build_id == SECOND
    assert (pulled.build_id, pulled.channel) == (FIRST, "candidate")
    assert verify_directory(tmp_path / "models") == []


@pytest.mark.parametrize("reference", [REFERENCE, "tiny-llama@candidate/cpu-int4"])
def test_to_read_objects_is_all_that_a_pull_must_be_allowed(
    registry: Registry, address: str, proxy: Proxy, tmp_path: Path, reference: str
) -> None:
    Build().publish(address)
    del proxy.requests[:]
    proxy.fail(Fault("answer", times=1000, status=403, body=DENIED, matches=lambda _, path: "list-type" in path))
    proxy.fail(Fault("answer", times=1000, status=403, body=DENIED, matches=lambda method, _: method != "GET"))
    pull(registry, registry.find(reference), tmp_path / "models")
    assert verify_directory(tmp_path / "models") == []
    assert {method for method, _ in proxy.requests} == {"GET"}


# Full disks


@pytest.fixture
def before(registry: Registry, address: str, tmp_path: Path) -> dict[str, object]:
    """The files and links of a first pull."""
    pull(registry, Build().publish(address), tmp_path / "models")
    return seen(tmp_path / "models")


def seen(directory: Path) -> dict[str, object]:
    """Every path that is not hidden."""
    return {path: what for path, what in snapshot(directory).items() if not path.startswith(".enginery")}


def test_a_disk_that_is_too_small_is_reported_before_anything_is_fetched(
    registry: Registry, address: str, tmp_path: Path, before: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = EngineBuild(build_id=SECOND, engine=some_bytes(5 * MB)).publish(address)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4 * MB))
    problem = r"5\.\d MB must be fetched, but the disk has 4\.2 MB free"
    with pytest.raises(RegistryError, match=problem) as caught:
        pull(registry, manifest, tmp_path / "models")
    assert "free some space" in caught.value.remedy
    assert seen(tmp_path / "models") == before


@pytest.mark.parametrize("cached", [False, True])
def test_a_disk_that_is_full_leaves_what_was_there_and_the_next_pull_goes_on(  # noqa: PLR0913  fixtures
    registry: Registry,
    address: str,
    tmp_path: Path,
    before: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
    *,
    cached: bool,
) -> None:
    engine = some_bytes(5 * MB)
    manifest = EngineBuild(build_id=SECOND, engine=engine, answers={"Who?": "another"}).publish(address)
    link = tmp_path / "cache" if cached else None
    written = os.pwrite

    def full(descriptor: int, data: Any, position: int) -> int:
        if position + len(data) > 2 * MB:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written(descriptor, data, position)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(RegistryError, match="the disk is full") as caught:
            pull(registry, manifest, tmp_path / "models", link=link)
    assert caught.value.subject == str(link or tmp_path / "models")
    assert "free some space there and run it again" in caught.value.remedy
    assert "ENGINERY_HOME" not in str(caught.value)
    assert seen(tmp_path / "models") == before
    pull(registry, manifest, tmp_path / "models", link=link)
    assert (tmp_path / "models/current" / ENGINE).read_bytes() == engine
    assert verify_directory(tmp_path / "models") == []


def test_a_disk_that_is_full_when_the_build_is_to_appear_leaves_what_was_there(
    registry: Registry, address: str, tmp_path: Path, before: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Build(build_id=SECOND).publish(address)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(RegistryError, match="the disk is full"):
            pull(registry, manifest, tmp_path / "models")
    assert seen(tmp_path / "models") == before


def test_an_object_that_is_gone_leaves_what_was_there(
    registry: Registry, address: str, tmp_path: Path, before: dict[str, object]
) -> None:
    manifest: Manifest = Build(build_id=SECOND, answers={"Who?": "another"}).publish(address)
    path = "model_repository/tensorrt_llm/1/answers.json"
    registry.build_prefix("tiny-llama", SECOND).delete(path)
    with pytest.raises(RegistryError, match="is not there") as caught:
        pull(registry, manifest, tmp_path / "models")
    assert caught.value.subject.endswith(path)
    assert seen(tmp_path / "models") == before

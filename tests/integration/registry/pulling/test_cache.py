"""Tests of the cache that the pulls of one machine share."""

import errno
import os
from pathlib import Path

import pytest

from enginery.core import digests
from enginery.core.digests import bytes_digest, json_digest
from enginery.core.errors import RegistryError
from enginery.registry import Registry
from enginery.registry.pulling import pull
from enginery.registry.upkeep.verifying import verify_directory
from enginery.store.layout import blob_path
from enginery.store.steps import FileRecord
from tests.support.http.faulty_proxy import Fault, Proxy
from tests.support.registry.pulls import ENGINE, EngineBuild, address, registry, some_bytes, write_file
from tests.support.s3.fixtures import bucket, proxy, server
from tests.support.store.outputs import contents

__all__ = ["address", "bucket", "proxy", "registry", "server"]

MB = 1 << 20
BYTES = some_bytes(5 * MB)


def blob(cache: Path, data: bytes = BYTES) -> Path:
    return cache / blob_path(FileRecord(path="", sha256=bytes_digest(data), size=len(data)))


def test_a_second_pull_on_the_machine_fetches_only_the_manifest_and_shares_the_large_files(
    registry: Registry, address: str, proxy: Proxy, tmp_path: Path
) -> None:
    manifest = EngineBuild(engine=BYTES).publish(address)
    first = pull(registry, manifest, tmp_path / "1", link=tmp_path / "cache")
    before = proxy.count("GET")
    second = pull(registry, manifest, tmp_path / "2", link=tmp_path / "cache")
    assert (first.fetched > len(BYTES), second.fetched) == (True, 0)
    assert proxy.count("GET") == before + 1
    assert (tmp_path / "1/current" / ENGINE).samefile(tmp_path / "2/current" / ENGINE)
    assert (tmp_path / "1/current" / ENGINE).samefile(blob(tmp_path / "cache"))
    assert verify_directory(tmp_path / "2") == []


def test_small_files_are_copies_so_that_nobody_writes_into_the_cache_through_them(
    registry: Registry, address: str, tmp_path: Path
) -> None:
    pull(registry, EngineBuild(engine=BYTES, mount="/models").publish(address), tmp_path / "1", link=tmp_path / "cache")
    shared = {path for path in (tmp_path / "1/builds").rglob("*") if path.is_file() and path.stat().st_nlink > 1}
    assert {path.name for path in shared} == {"rank0.engine"}
    assert {bytes_digest(data) for data in contents(tmp_path / "cache/blobs").values()} == {
        name.rpartition("/")[2] for name in contents(tmp_path / "cache/blobs")
    }


def test_what_was_pulled_does_not_need_the_cache(registry: Registry, address: str, tmp_path: Path) -> None:
    pull(registry, EngineBuild(engine=BYTES).publish(address), tmp_path / "1", link=tmp_path / "cache")
    (tmp_path / "cache").rename(tmp_path / "gone")
    assert verify_directory(tmp_path / "1") == []


@pytest.mark.parametrize("damage", [b"", BYTES[:-1], BYTES[:-1] + bytes([BYTES[-1] ^ 1])])
def test_a_damaged_file_of_the_cache_is_found_out_and_fetched_again(
    registry: Registry, address: str, tmp_path: Path, damage: bytes
) -> None:
    manifest = EngineBuild(engine=BYTES).publish(address)
    pull(registry, manifest, tmp_path / "1", link=tmp_path / "cache")
    write_file(blob(tmp_path / "cache"), damage)
    assert pull(registry, manifest, tmp_path / "2", link=tmp_path / "cache").fetched == len(BYTES)
    assert verify_directory(tmp_path / "2") == []
    assert blob(tmp_path / "cache").read_bytes() == BYTES


def test_a_file_of_the_cache_that_was_written_into_is_found_out(
    registry: Registry, address: str, tmp_path: Path
) -> None:
    """Even if the file's size stays the same and its digest is remembered."""
    manifest = EngineBuild(engine=BYTES).publish(address)
    pull(registry, manifest, tmp_path / "1", link=tmp_path / "cache")
    victim = blob(tmp_path / "cache")
    victim.chmod(0o644)
    with victim.open("r+b") as file:
        file.write(bytes([BYTES[0] ^ 1]))
    assert pull(registry, manifest, tmp_path / "2", link=tmp_path / "cache").fetched == len(BYTES)
    assert verify_directory(tmp_path / "2") == []


def test_a_large_file_of_the_cache_is_not_digested_again_and_again(
    registry: Registry, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = EngineBuild(engine=BYTES).publish(address)
    pull(registry, manifest, tmp_path / "1", link=tmp_path / "cache")
    digested: list[Path] = []
    original = digests.file_digest

    def counted(path: Path) -> str:
        digested.append(path)
        return original(path)

    monkeypatch.setattr(digests, "file_digest", counted)
    pull(registry, manifest, tmp_path / "2", link=tmp_path / "cache")
    assert digested
    assert all(path.stat().st_size < MB for path in digested)


def test_a_cache_on_another_file_system_is_copied_from(
    registry: Registry, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_file_system(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", other_file_system)
    manifest = EngineBuild(engine=BYTES).publish(address)
    pull(registry, manifest, tmp_path / "1", link=tmp_path / "cache")
    assert not (tmp_path / "1/current" / ENGINE).samefile(blob(tmp_path / "cache"))
    assert not (tmp_path / "1/current" / ENGINE).is_symlink()
    assert verify_directory(tmp_path / "1") == []


def test_what_came_whole_before_a_failure_is_kept_in_the_cache(
    registry: Registry, address: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "0")
    manifest = EngineBuild(engine=BYTES).publish(address)
    proxy.fail(Fault("answer", times=1000, matches=lambda _, path: path.endswith("report.json")))
    with pytest.raises(RegistryError, match="cannot answer just now"):
        pull(registry, manifest, tmp_path / "1", link=tmp_path / "cache")
    kept = contents(tmp_path / "cache/blobs")
    assert kept
    proxy.faults.clear()
    pulled = pull(registry, manifest, tmp_path / "1", link=tmp_path / "cache")
    sizes = {file.sha256: file.size for file in manifest.files}
    assert pulled.fetched == sum(sizes.values()) - sum(map(len, kept.values()))


def test_what_a_pull_that_was_killed_has_left_in_the_cache_is_used_when_it_is_whole(
    registry: Registry, address: str, tmp_path: Path
) -> None:
    manifest = EngineBuild(engine=BYTES).publish(address)
    work = json_digest([manifest.model, manifest.build_id])
    incoming = tmp_path / "cache/work" / f"{work}.incoming"
    incoming.mkdir(parents=True)
    (incoming / bytes_digest(BYTES)).write_bytes(BYTES)
    answers = next(file for file in manifest.files if file.path.endswith("answers.json"))
    (incoming / answers.sha256).write_bytes(b"x" * answers.size)
    pulled = pull(registry, manifest, tmp_path / "1", link=tmp_path / "cache")
    sizes = {file.sha256: file.size for file in manifest.files}
    assert pulled.fetched == sum(sizes.values()) - len(BYTES)
    assert verify_directory(tmp_path / "1") == []
    assert not incoming.exists()

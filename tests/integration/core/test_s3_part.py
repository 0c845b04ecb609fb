"""Tests of large downloads that are interrupted and resumed."""

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import FlexibleChecksumError
from botocore.response import StreamingBody
from urllib3.exceptions import SSLError

from enginery.core.digests import bytes_digest
from enginery.core.errors import EngineryError, StoreError
from enginery.core.s3 import download as s3_download
from enginery.core.s3.download import digest_object, download_file
from enginery.core.s3.objects import Prefix
from enginery.core.s3.partial import Part
from tests.support.http.faulty_proxy import Fault, Proxy
from tests.support.registry.pulls import some_bytes
from tests.support.s3.fixtures import bucket, prefix, proxy, server

__all__ = ["bucket", "prefix", "proxy", "server"]

DATA = some_bytes(1000)
SHA256 = bytes_digest(DATA)


@pytest.fixture(autouse=True)
def ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Split the data into ten ranges, which arrive one after the other."""
    monkeypatch.setattr(s3_download, "SMALL_BYTES", 100)
    monkeypatch.setattr(s3_download, "RANGE_BYTES", 100)
    monkeypatch.setattr(s3_download, "DIGESTED_BYTES", 100)
    monkeypatch.setattr(s3_download, "RANGES_AT_ONCE", 1)


def download(prefix: Prefix, to: Path, *, resume: bool = True) -> None:
    download_file(prefix, "engine", to, size=len(DATA), sha256=SHA256, resume=resume)


@pytest.fixture
def broken_off(prefix: Prefix, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A download whose last three ranges did not arrive."""
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "0")
    prefix.put_bytes("engine", DATA)
    requests = iter(range(100))
    proxy.fail(Fault("answer", times=1000, matches=lambda method, _: method == "GET" and next(requests) >= 7))
    with pytest.raises(StoreError, match="cannot answer just now"):
        download(prefix, tmp_path / "engine")
    proxy.faults.clear()
    del proxy.requests[:]
    return tmp_path / "engine"


def part_of(file: Path) -> Path:
    (part,) = file.parent.glob(".download-*")
    return part


def test_what_was_there_is_not_read_again(broken_off: Path, prefix: Prefix, proxy: Proxy) -> None:
    assert not broken_off.exists()
    download(prefix, broken_off)
    assert broken_off.read_bytes() == DATA
    assert proxy.count("GET") == 3
    assert [path.name for path in broken_off.parent.iterdir() if path.name.startswith(".")] == []


def test_what_was_there_and_is_damaged_is_read_again(broken_off: Path, prefix: Prefix, proxy: Proxy) -> None:
    with part_of(broken_off).open("r+b") as file:
        file.write(b"damaged")
    download(prefix, broken_off)
    assert broken_off.read_bytes() == DATA
    assert proxy.count("GET") == 3 + 10


def test_a_part_of_another_object_is_not_gone_on_with(broken_off: Path, prefix: Prefix, proxy: Proxy) -> None:
    other = some_bytes(1000, seed=1)
    prefix.put_bytes("engine", other)
    download_file(prefix, "engine", broken_off, size=1000, sha256=bytes_digest(other), resume=True)
    assert broken_off.read_bytes() == other
    assert proxy.count("GET") == 10


def test_a_part_with_other_ranges_is_started_again(
    broken_off: Path, prefix: Prefix, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_download, "RANGE_BYTES", 500)
    download(prefix, broken_off)
    assert broken_off.read_bytes() == DATA
    assert proxy.count("GET") == 2


def test_a_complete_part_is_only_digested_before_it_gets_its_name(
    broken_off: Path, prefix: Prefix, proxy: Proxy
) -> None:
    part_of(broken_off).write_bytes(DATA)
    download(prefix, broken_off)
    assert broken_off.read_bytes() == DATA
    assert proxy.requests == []


def test_a_link_in_the_place_of_a_part_is_not_followed(broken_off: Path, prefix: Prefix, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    part = part_of(broken_off)
    part.unlink()
    part.symlink_to(victim)
    with pytest.raises((EngineryError, OSError)):
        download(prefix, broken_off)
    assert victim.read_text() == "mine"


def test_nothing_stays_of_a_download_that_is_not_to_be_resumed(
    prefix: Prefix, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "0")
    (tmp_path / "place").mkdir()
    prefix.put_bytes("engine", DATA)
    proxy.fail(Fault("answer", times=1000, matches=lambda method, _: method == "GET"))
    with pytest.raises(StoreError):
        download(prefix, tmp_path / "place/engine", resume=False)
    assert list((tmp_path / "place").iterdir()) == []


def test_an_empty_object_is_asked_for_too(prefix: Prefix, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not there"):
        download_file(prefix, "empty", tmp_path / "empty", size=0, sha256=bytes_digest(b""), resume=True)
    prefix.put_bytes("empty", b"")
    download_file(prefix, "empty", tmp_path / "empty", size=0, sha256=bytes_digest(b""), resume=True)
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_part_knows_its_ranges_again(tmp_path: Path) -> None:
    part = Part(tmp_path / "engine", 10, 3, SHA256)
    assert part.missing() == [0, 1, 2]
    part.write(b"56789", 5)
    part.mark_complete(1, 5, 10)
    part.close()
    again = Part(tmp_path / "engine", 10, 3, SHA256)
    assert again.missing() == [0, 2]
    again.finish()
    assert again.missing() == []
    assert again.path.read_bytes() == bytes(5) + b"56789"
    again.close()


def test_an_object_is_digested_without_being_kept(prefix: Prefix, proxy: Proxy, tmp_path: Path) -> None:
    prefix.put_bytes("engine", DATA)
    before = sorted(tmp_path.rglob("*"))
    proxy.fail(Fault("truncate", matches=lambda method, _: method == "GET"))
    assert digest_object(prefix, "engine", size=len(DATA)) == SHA256
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(StoreError, match="has 1000 bytes, not the 999"):
        digest_object(prefix, "engine", size=999)


def test_bytes_that_came_before_a_failure_are_digested_once(prefix: Prefix, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection fails in the middle of a range. The range is then read again from its start."""
    prefix.put_bytes("engine", DATA)
    chunks, failed = StreamingBody.iter_chunks, list[int]()

    def fail_once(body: StreamingBody, size: int) -> Iterator[bytes]:
        yield from chunks(body, 10)
        if not failed:
            failed.append(1)
            raise SSLError("bad record")

    monkeypatch.setattr(StreamingBody, "iter_chunks", fail_once)
    assert digest_object(prefix, "engine", size=len(DATA)) == SHA256
    assert failed


def test_an_object_whose_checksum_fails_is_asked_for_again(prefix: Prefix, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix.put_bytes("engine", DATA)
    chunks, failed = StreamingBody.iter_chunks, list[int]()

    def altered_once(body: StreamingBody, size: int) -> Iterator[bytes]:
        data = b"".join(chunks(body, size))
        if failed:
            yield data
            return
        failed.append(1)
        yield bytes(len(data))
        raise FlexibleChecksumError(error_msg="Expected checksum")

    monkeypatch.setattr(StreamingBody, "iter_chunks", altered_once)
    assert digest_object(prefix, "engine", size=len(DATA)) == SHA256


def test_the_error_of_a_full_disk_names_the_file_and_not_the_object(
    prefix: Prefix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix.put_bytes("engine", DATA)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreError, match="the disk is full") as caught:
        download(prefix, tmp_path / "engine")
    assert caught.value.subject == str(tmp_path / "engine")


def test_nothing_is_written_any_more_once_a_download_has_failed(
    prefix: Prefix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_download, "RANGES_AT_ONCE", 4)
    monkeypatch.setattr(s3_download, "RANGES_AT_FIRST", 4)
    prefix.put_bytes("engine", DATA)
    written, failed, closed, late = os.pwrite, threading.Event(), threading.Event(), list[int]()

    def slow(descriptor: int, data: bytes, position: int) -> int:
        if position >= 100:
            failed.wait(20)
            if closed.wait(0.2):
                late.append(position)
                return len(data)
        return written(descriptor, data, position)

    def broken(*_: object) -> bytes:
        failed.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def close(part: Part) -> None:
        os.close(part._descriptor)
        closed.set()

    monkeypatch.setattr(os, "pwrite", slow)
    monkeypatch.setattr(Part, "read", broken)
    monkeypatch.setattr(Part, "close", close)
    with pytest.raises(OSError, match="Input/output error") as caught:
        download(prefix, tmp_path / "engine")
    assert caught.value.errno == errno.EIO  # `caught` keeps the traceback and all its objects
    assert closed.is_set()
    for thread in threading.enumerate():
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(5)
    assert late == []

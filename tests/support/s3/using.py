"""Fixtures and helpers that send each kind of request to S3, and note the requests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from enginery.core import s3
from enginery.core.digests import bytes_digest
from enginery.core.s3 import download, upload
from enginery.core.s3.download import digest_object, download_file
from enginery.core.s3.upload import upload_file
from tests.support.s3.recorder import Recorder, recording
from tests.support.s3.server import S3Server

SMALL = b"small enough for the second client"


@pytest.fixture
def recorder(server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """A server that notes the requests. The AWS settings point to it."""
    monkeypatch.setattr(upload, "PART_BYTES", 5 << 20)
    monkeypatch.setattr(download, "LEAST_RANGE_BYTES", 3 << 20)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with recording(server.host, server.port) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        yield running
    s3.close_clients()


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file that stands for ~/.aws/config; still empty."""
    file = tmp_path / "config"
    file.write_text("")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    return file


def use_everything(prefix: s3.Prefix, tmp_path: Path, *, large: bool = True) -> None:
    """Send each kind of request, and compare what comes back."""
    for name, data in {"small": SMALL, "large": os.urandom(12 << 20)}.items():
        if name == "large" and not large:
            continue
        file, digest = tmp_path / name, bytes_digest(data)
        file.write_bytes(data)
        upload_file(prefix, name, file, digest)
        found = prefix.head(name)
        assert found
        assert (found.size, found.sha256) == (len(data), digest)
        assert download_file(prefix, name, tmp_path / "back", size=len(data), sha256=digest) == digest
        assert (tmp_path / "back").read_bytes() == data
    assert digest_object(prefix, "small", size=len(SMALL)) == bytes_digest(SMALL)
    prefix.copy("small", "copy")
    prefix.put_bytes("new.json", b"{}", if_none_match=True)
    assert {info.path for info in prefix.list()} >= {"small", "copy", "new.json"}
    assert list(s3.unfinished_uploads(prefix)) == []
    prefix.delete("copy")

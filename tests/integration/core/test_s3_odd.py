# ruff: noqa: F811  fixtures are imported
"""Servers that answer as S3 does not, and prefixes with unusual characters."""

from collections.abc import Callable
from pathlib import Path

import pytest

from enginery.core import s3
from enginery.core.digests import bytes_digest
from enginery.core.errors import EngineryError, StoreError
from enginery.core.s3.download import download_file
from tests.support.s3.fixtures import bucket, prefix, server  # noqa: F401
from tests.support.s3.recorder import Recorder
from tests.support.s3.server import S3Server
from tests.support.s3.using import SMALL, config, recorder, use_everything  # noqa: F401

# Servers that answer oddly


@pytest.mark.parametrize("status", [304, 400, 403, 404, 409, 412, 416, 500, 503])
def test_an_error_with_the_checksum_of_an_object_is_a_clear_error(
    prefix: s3.Prefix, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "0")
    prefix.put_bytes("x", SMALL)
    checksum = {"x-amz-checksum-crc32": "AAAAAA=="}
    recorder.answer = lambda _: (status, b"<Error><Code>InternalError</Code><Message>disk</Message></Error>", checksum)
    with pytest.raises(EngineryError) as caught:
        download_file(prefix, "x", tmp_path / "x", size=len(SMALL), sha256=bytes_digest(SMALL))
    assert caught.value.remedy
    assert list(tmp_path.iterdir()) == []


PAGE = (200, b"<!doctype html><html><body>Sign in<br></body></html>", {"Content-Type": "text/html"})


@pytest.mark.parametrize(
    "call",
    [
        lambda prefix: prefix.get("x"),
        lambda prefix: prefix.head("x"),
        lambda prefix: prefix.put_bytes("x", b"x"),
        lambda prefix: list(prefix.list()),
        lambda prefix: list(s3.unfinished_uploads(prefix)),
        s3.honours_conditional_writes,
    ],
)
def test_a_web_page_in_place_of_s3_is_a_clear_error(
    prefix: s3.Prefix, recorder: Recorder, call: Callable[[s3.Prefix], object]
) -> None:
    recorder.answer = lambda _: PAGE
    with pytest.raises(StoreError) as caught:
        call(prefix)
    assert "AWS_ENDPOINT_URL" in caught.value.remedy
    assert not caught.value.transient


# Prefixes with unusual characters


@pytest.mark.parametrize("odd", ["with space", "ü+plus%2Fpct", "x?y#z", "日本/~'()*!", "a&b=c;d@e:f,g$", "back\\slash"])
@pytest.mark.parametrize("both", [True, False])
def test_odd_prefixes_work_with_both_clients(  # noqa: PLR0913, PLR0917
    server: S3Server,
    bucket: str,
    recorder: Recorder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    odd: str,
    *,
    both: bool,
) -> None:
    if not both:
        monkeypatch.setenv("BOTOCORE_TCP_KEEPALIVE", "true")
    use_everything(s3.Prefix(s3.Address.parse(f"s3://{bucket}/{odd}")), tmp_path, large=False)
    assert all(recorder.by_each_client()) is both
    assert server.keys(bucket) == sorted([f"{odd}/small", f"{odd}/new.json"])


@pytest.mark.parametrize("prefix_text", ["incoming//tiny", "/tiny", "incoming//"])
def test_a_prefix_with_empty_parts_can_be_read(server: S3Server, bucket: str, tmp_path: Path, prefix_text: str) -> None:
    key = f"{prefix_text.removesuffix('/')}/config.json" if prefix_text != "incoming//" else "incoming//config.json"
    server.admin.put_object(Bucket=bucket, Key=key, Body=SMALL)
    address = s3.Address.parse(f"s3://{bucket}/{prefix_text}", empty_parts=True)
    prefix = s3.Prefix(address)
    assert [info.path for info in prefix.list()] == ["config.json"]
    digest = bytes_digest(SMALL)
    download_file(prefix, "config.json", tmp_path / "back", size=len(SMALL), sha256=digest)
    assert (tmp_path / "back").read_bytes() == SMALL

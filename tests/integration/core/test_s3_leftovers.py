"""Tests of what killed writers leave in S3, and of small objects that arrive with changed bytes."""

import pytest

from enginery.core.digests import bytes_digest
from enginery.core.errors import StoreError
from enginery.core.s3 import Prefix, probes
from enginery.core.s3.download import digest_object
from enginery.core.s3.upload import abort_upload, unfinished_uploads
from tests.support.http.faulty_proxy import Fault, Proxy
from tests.support.registry.upkeep import begin_upload, write
from tests.support.s3.fixtures import bucket, prefix, proxy, server
from tests.support.s3.server import S3Server

__all__ = ["bucket", "prefix", "proxy", "server"]


def test_uploads_under_a_path_are_found_and_can_be_aborted_twice(server: S3Server, prefix: Prefix) -> None:
    wanted = begin_upload(server, str(prefix.address), "a/file")
    begin_upload(server, str(prefix.address), "ab/file")
    (found,) = unfinished_uploads(prefix, "a")
    assert (found.path, found.upload_id) == ("a/file", wanted)
    abort_upload(prefix, found)
    abort_upload(prefix, found)
    assert [upload.path for upload in unfinished_uploads(prefix)] == ["ab/file"]


def test_an_upload_that_may_not_be_aborted_is_an_error(server: S3Server, prefix: Prefix, proxy: Proxy) -> None:
    begin_upload(server, str(prefix.address), "a/file")
    (found,) = unfinished_uploads(prefix)
    body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    proxy.fail(Fault("answer", status=403, body=body, matches=lambda method, _: method == "DELETE"))
    with pytest.raises(StoreError, match="not allowed"):
        abort_upload(prefix, found)


def test_only_probes_of_the_prefix_itself_are_found(server: S3Server, prefix: Prefix) -> None:
    for path in (".probe-1-2", "a/.probe-3-4", "probe"):
        write(server, str(prefix.address), path, b"first")
    assert [info.path for info in probes(prefix)] == [".probe-1-2"]


def test_a_small_object_with_a_byte_turned_on_its_way_is_read_again(prefix: Prefix, proxy: Proxy) -> None:
    prefix.put_bytes("pointer.json", b"{}")
    proxy.drops.add("x-amz-checksum-mode")
    proxy.fail(Fault("flip", times=2, matches=lambda method, _: method == "GET"))
    assert prefix.get_bytes("pointer.json") == b"{}"


def test_a_small_object_that_is_not_as_its_metadata_says_is_given_as_it_is(server: S3Server, prefix: Prefix) -> None:
    bucket, key = prefix.address.bucket, prefix.address.key("pointer.json")
    server.client().put_object(Bucket=bucket, Key=key, Body=b"{|", Metadata={"sha256": bytes_digest(b"{}")})
    assert prefix.get_bytes("pointer.json") == b"{|"


def test_a_network_that_alters_every_answer_is_named_and_nothing_is_believed(prefix: Prefix, proxy: Proxy) -> None:
    data = b"{}" * 10
    prefix.put_bytes("pointer.json", data)
    proxy.drops.add("x-amz-checksum-mode")
    proxy.fail(Fault("flip", times=100, matches=lambda method, _: method == "GET"))
    with pytest.raises(StoreError, match="was altered on its way") as caught:
        prefix.get_bytes("pointer.json")
    assert caught.value.transient
    with pytest.raises(StoreError, match="was altered on its way"):
        digest_object(prefix, "pointer.json", size=len(data), expected=bytes_digest(data))


@pytest.mark.parametrize("kind", ["truncate", "stall"])
def test_an_answer_that_breaks_off_and_is_no_object_is_asked_for_again(
    prefix: Prefix, proxy: Proxy, kind: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "1")
    proxy.fail(Fault(kind))  # type: ignore[arg-type]
    assert prefix.get_bytes("nothing") is None
    prefix.put_bytes("a", b"")
    proxy.fail(Fault(kind))  # type: ignore[arg-type]
    assert [info.path for info in prefix.list()] == ["a"]


def test_an_answer_that_does_not_say_what_is_not_there_is_asked_for_again(prefix: Prefix, proxy: Proxy) -> None:
    prefix.put_bytes("a", b"bytes")
    proxy.fail(Fault("answer", status=404, body=b"<Error><Co", matches=lambda method, _: method == "GET"))
    assert prefix.get_bytes("a") == b"bytes"


def test_a_listing_that_does_not_say_whether_it_goes_on_has_ended(
    prefix: Prefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix, "patiently", lambda *_: {})  # rclone's server answers like this
    assert list(unfinished_uploads(prefix)) == []

"""After a HEAD with status 404, a second request finds the reason. The object can change between the two."""

import pytest

from enginery.core.errors import StoreError
from enginery.core.s3.objects import Prefix
from tests.support.http.faulty_proxy import Fault, Proxy
from tests.support.s3.fixtures import bucket, prefix, proxy, server

__all__ = ["bucket", "prefix", "proxy", "server"]


def is_head(method: str, path: str) -> bool:
    return method == "HEAD"


def test_an_object_that_is_written_between_two_requests_is_there(prefix: Prefix, proxy: Proxy) -> None:
    prefix.put_bytes("one", b"content")
    proxy.fail(Fault("answer", status=404, matches=is_head))
    found = prefix.head("one")
    assert found is not None
    assert found.size == len(b"content")


def test_an_object_that_only_get_finds_is_an_error_and_not_taken_for_missing(prefix: Prefix, proxy: Proxy) -> None:
    prefix.put_bytes("one", b"content")
    proxy.fail(Fault("answer", status=404, times=100, matches=is_head))
    with pytest.raises(StoreError, match="404"):
        prefix.head("one")


def test_an_object_that_is_not_there_is_none(prefix: Prefix) -> None:
    assert prefix.head("none") is None

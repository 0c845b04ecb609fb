"""The S3 clients, one for each set of AWS settings, and the retries of failed requests.

If a server does not answer, the request is retried for `ENGINERY_S3_PATIENCE` seconds (default 30). Endpoint, region
and credentials come from the usual AWS settings; see `enginery/core/s3/settings.py`.
"""

import os
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any, TypeVar

from enginery.core.errors import StoreError, UsageError
from enginery.core.late import late
from enginery.core.retry import Waits, retry
from enginery.core.s3.settings import client_config, sends_checksums, set_region, variables
from enginery.core.text import without_sign_in

if TYPE_CHECKING:
    import urllib3
    from boto3 import session as boto3_session
    from botocore import awsrequest, loaders
    from botocore import parsers as botocore_parsers
    from botocore import session as botocore_session
    from botocore.session import Session
    from mypy_boto3_s3 import S3Client
    from obstore.store import S3Store
else:
    awsrequest, urllib3 = late("botocore.awsrequest"), late("urllib3")
    botocore_parsers = late("botocore.parsers")
    boto3_session, loaders = late("boto3.session"), late("botocore.loaders")
    botocore_session = late("botocore.session")

READ_SECONDS = 60.0
DEFAULT_PATIENCE = 30.0
LEAST_ATTEMPTS = 3
"""Attempts that are made even after the time of `patience`: one request without an answer may use all of it."""
WAITS = Waits(first=0.1, longest=3.0, random=0.2)
HTTP_ERROR = 300
"""The lowest HTTP status of an answer without the object that was asked for."""
_KEY = "key"
_urls: ContextVar[list[str] | None] = ContextVar("urls", default=None)
"""If it is a list, requests of this thread are not sent; their URLs are put into the list."""

T = TypeVar("T")


@dataclass(frozen=True)
class Connection:
    """The clients of one server, for one set of AWS settings.

    Attributes:
        client: boto3's client, for every kind of request.
        session: the AWS settings.
        checksums: whether requests may carry S3's newer checksums.
        stores: bucket -> a client that is fast with small objects; None where that client cannot be used.
        conditional: address -> whether the server honours conditional writes there.
    """

    client: "S3Client"
    session: "Session"
    checksums: bool = True
    stores: dict[str, "S3Store | None"] = field(default_factory=dict)
    conditional: dict[str, bool] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        """The server's URL, without user name or password."""
        return without_sign_in(self.client.meta.endpoint_url)


_connections: dict[tuple[int, float, frozenset[tuple[str, str]]], Connection] = {}
_lock = threading.Lock()


def patience() -> float:
    """Seconds for which requests to a server that does not answer are retried, counted from the first failure.

    Raises:
        UsageError: when `ENGINERY_S3_PATIENCE` is not a number.
    """
    chosen = os.environ.get("ENGINERY_S3_PATIENCE") or DEFAULT_PATIENCE
    try:
        return float(chosen)
    except ValueError as error:
        raise UsageError("is not a number", subject="ENGINERY_S3_PATIENCE", remedy="set it to seconds") from error


def connection() -> Connection:
    """The connection of this process, for the present AWS settings. Thread-safe.

    Raises:
        StoreError: when the AWS settings do not make sense.
    """
    name = (os.getpid(), patience(), variables())
    with _lock:
        if name not in _connections:
            _connections[name] = _connect()
        return _connections[name]


def close_clients(url: str | None = None) -> None:
    """Close every connection, or those to one server; the next call of `connection` opens new ones."""
    with _lock:
        for name in [name for name, made in _connections.items() if url in {None, made.endpoint}]:
            _connections.pop(name).client.close()


def endpoint() -> str:
    """The URL of the server in use, without user name or password."""
    return connection().endpoint


def read_seconds() -> float:
    """Seconds for which a server may send nothing in the middle of an answer."""
    return max(1.0, min(READ_SECONDS, patience()))


@cache
def _loader(data_path: str | None) -> "loaders.Loader":
    """Botocore's descriptions of AWS services. To read them takes long, so all connections share them."""
    return loaders.create_loader(data_path)


def _connect() -> Connection:
    try:
        settings = botocore_session.get_session()
        settings.register_component("data_loader", _loader(settings.get_config_variable("data_path")))
        set_region(settings)
        # `patiently` retries for longer. Only the parts of a large copy, which boto3 sends by itself, depend on these.
        attempts = max(1, min(4, int(patience() // 5)))
        config = client_config(settings, attempts=attempts, read_seconds=read_seconds())
        made = boto3_session.Session(botocore_session=settings).client("s3", config=config)
    except ValueError as error:
        remedy = "correct the AWS_… variables, such as AWS_ENDPOINT_URL, or the profile in ~/.aws/config"
        raise StoreError(f"AWS settings: {error}", remedy=remedy) from error
    for first in (_without_checksum_of_error, _refuse_web_page):
        made.meta.events.register_first("before-parse.*.*", first)  # with these stars, before boto3's own handlers
    answering: Any = _note_url  # the stubs know only handlers without a result
    made.meta.events.register_first("before-send.s3.HeadObject", answering)
    return Connection(made, settings, sends_checksums(made))


def _without_checksum_of_error(response_dict: dict[str, Any], **_: object) -> None:
    """Let boto3 read an error's answer although the server put an object's checksum into its headers.

    Boto3 would check the bytes of such an answer like those of an object, and then fails with an AttributeError. The
    bytes were read already, so only the HTTP status is left.
    """
    if response_dict["status_code"] >= HTTP_ERROR and not isinstance(response_dict["body"], bytes):
        response_dict["body"] = b""


def _refuse_web_page(response_dict: dict[str, Any], **_: object) -> None:
    """Raise an error for a web page in place of an answer. Boto3 would take it for a failure that can pass."""
    kind, body = response_dict["headers"].get("content-type", ""), response_dict["body"]
    if response_dict["status_code"] < HTTP_ERROR and isinstance(body, bytes) and body and kind.startswith("text/html"):
        raise botocore_parsers.ResponseParserError("it is a web page")


def bucket_url(used: Connection, bucket: str) -> str:
    """The URL of a bucket, as boto3 makes it from the endpoint, the region and the settings for addresses.

    It is the URL of a request that is made and signed, but not sent. A presigned URL is not always the same: boto3 may
    make it for another region.
    """
    urls: list[str] = []
    token = _urls.set(urls)
    try:
        used.client.head_object(Bucket=bucket, Key=_KEY)
    finally:
        _urls.reset(token)
    return urls[0].removesuffix(f"/{_KEY}")


def _note_url(request: "awsrequest.AWSPreparedRequest", **_: object) -> "awsrequest.AWSResponse | None":
    """Answer in the server's place if only the URL of a request is wanted."""
    urls = _urls.get()
    if urls is None:
        return None
    urls.append(str(request.url))
    headers: Any = {}
    return awsrequest.AWSResponse(
        str(request.url), 200, headers, urllib3.HTTPResponse(BytesIO(), preload_content=False)
    )


def patiently(call: Callable[[], T]) -> T:
    """Call `call` until it succeeds, raises an error that is not transient, or `patience()` has ended.

    It is called at least three times, but only once when `patience()` is zero.
    """
    failures: list[float] = []

    def give_up() -> bool:
        failures.append(time.monotonic())
        seconds = failures[-1] - failures[0]
        return seconds >= patience() and (len(failures) >= LEAST_ATTEMPTS or not patience())

    return retry(call, give_up=give_up, waits=WAITS)

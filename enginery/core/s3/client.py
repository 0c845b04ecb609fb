"""The S3 clients, one for each set of AWS settings, and the retries of failed requests.

If a server does not answer, the request is retried for `ENGINERY_S3_PATIENCE` seconds (default 30). Endpoint, region
and credentials come from the usual AWS settings (`AWS_ENDPOINT_URL`, `AWS_PROFILE`, `~/.aws/config` …).
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from enginery.core import __version__
from enginery.core.errors import StoreError, UsageError
from enginery.core.late import late
from enginery.core.retry import Waits, retry
from enginery.core.text import without_sign_in

if TYPE_CHECKING:
    from boto3 import session as boto3_session
    from botocore import config as botocore_config
    from botocore import loaders
    from botocore import session as botocore_session
    from botocore.session import Session
    from mypy_boto3_s3 import S3Client
    from obstore.store import S3Store
else:
    boto3_session, loaders = late("boto3.session"), late("botocore.loaders")
    botocore_config, botocore_session = late("botocore.config"), late("botocore.session")

CONNECTIONS = 32
CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
DEFAULT_PATIENCE = 30.0
LEAST_ATTEMPTS = 3
"""Attempts that are made even after the time of `patience`: one request without an answer may use all of it."""
WAITS = Waits(first=0.1, longest=3.0, random=0.2)

T = TypeVar("T")


@dataclass(frozen=True)
class Connection:
    """The clients of one server, for one set of AWS settings.

    Attributes:
        client: boto3's client, for every kind of request.
        session: the AWS settings.
        stores: bucket -> a client that is fast with small objects; None where that client cannot be used.
        conditional: bucket -> whether the server honours conditional writes.
    """

    client: "S3Client"
    session: "Session"
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
    settings = frozenset(setting for setting in os.environ.items() if setting[0].startswith("AWS_"))
    name = (os.getpid(), patience(), settings)
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


def is_aws(url: str) -> bool:
    """Whether the server at `url` is Amazon's. Other servers rarely have a host name for each bucket."""
    return "amazonaws." in url


def read_seconds() -> float:
    """Seconds for which a server may send nothing in the middle of an answer."""
    return max(1.0, min(READ_SECONDS, patience()))


@cache
def _loader() -> "loaders.Loader":
    """Botocore's descriptions of AWS services. To read them takes long, so all connections share them."""
    return loaders.create_loader()


def _connect() -> Connection:
    config = botocore_config.Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=read_seconds(),
        max_pool_connections=CONNECTIONS,
        # Only for the parts of a large copy, which boto3 sends. `patiently` retries all other requests.
        retries={"mode": "standard", "total_max_attempts": max(1, min(4, int(patience() // 5)))},
        user_agent_extra=f"enginery/{__version__}",
    )
    try:
        settings = botocore_session.get_session()
        settings.register_component("data_loader", _loader())
        session = boto3_session.Session(botocore_session=settings)
        region = session.region_name or "us-east-1"
        made = session.client("s3", region_name=region, config=config)
        if not is_aws(made.meta.endpoint_url):
            made.close()
            config = config.merge(botocore_config.Config(s3={"addressing_style": "path"}))
            made = session.client("s3", region_name=region, config=config)
    except ValueError as error:
        raise StoreError(f"AWS settings: {error}", remedy="correct AWS_ENDPOINT_URL or the profile") from error
    return Connection(made, settings)


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

"""Fixtures for tests that use a real S3 API. A test module imports the fixtures that it uses.

The clients of the process's server stay open for the next test: making one takes longer than many tests.
"""

import os
from collections.abc import Iterator
from uuid import uuid4

import pytest

from enginery.core import s3
from enginery.core.s3 import Address, Prefix
from tests.support.http.faulty_proxy import Proxy, faulty_proxy
from tests.support.s3.server import S3Server, running_s3_server


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with running_s3_server() as running:
        yield running


@pytest.fixture
def bucket(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket; the AWS settings point to the server itself."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "4")
    name = f"bucket-{uuid4().hex}"
    server.create_bucket(name)
    return name


@pytest.fixture
def proxy(server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy that can fail. The AWS settings point to it."""
    with faulty_proxy(server.host, server.port) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        yield running
        s3.close_clients(running.url)


@pytest.fixture
def prefix(bucket: str) -> Prefix:
    return Prefix(Address(bucket, "pre/fix"))

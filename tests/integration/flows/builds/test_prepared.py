"""A build checks what it needs outside the store before any work starts."""

import shutil
from types import SimpleNamespace

import pytest

from enginery.core import s3
from enginery.core.errors import PlanError, RegistryError
from enginery.pipeline.flows.build import build_model
from enginery.spec.spec import parse_spec
from enginery.store import open_store
from tests.support.paths import TINY_LLAMA
from tests.support.s3.server import S3Server

pytestmark = pytest.mark.usefixtures("prefect_api")


def build_and_publish_to(address: str) -> None:
    build_model(
        parse_spec(
            {
                "name": "tiny",
                "source": {"path": str(TINY_LLAMA)},
                "targets": [{"name": "cpu", "gpu": "cpu", "precision": "int4"}],
                "publish": {"to": address},
            }
        )
    )


def test_a_bucket_that_does_not_exist_stops_the_build_before_it_begins(s3_server: S3Server) -> None:
    with pytest.raises(RegistryError, match="nowhere-at-all"):
        build_and_publish_to("s3://nowhere-at-all/registry")
    assert list(open_store().records()) == []


def test_an_unreachable_s3_stops_the_build_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "0.2")
    with pytest.raises(RegistryError, match="127.0.0.1:9"):
        build_and_publish_to("s3://bucket/registry")
    assert list(open_store().records()) == []
    s3.close_clients()


def test_a_disk_that_is_too_small_stops_the_build_before_it_begins(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(PlanError, match="W203"):
        build_and_publish_to("s3://nowhere-at-all/registry")
    assert list(open_store().records()) == []

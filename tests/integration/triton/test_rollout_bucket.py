"""Tests of a model repository in S3, in the registry's bucket and in another bucket."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from enginery.core import s3
from enginery.core.errors import EngineryError
from enginery.registry import Registry
from enginery.triton.placement import (
    arrange,
    next_version,
    open_repository,
    place,
    read_configs,
    remove_version,
)
from tests.support.registry.builds import Build
from tests.support.s3.fixtures import server
from tests.support.s3.server import S3Server

__all__ = ["server"]


@pytest.fixture
def buckets(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    names = (f"engines-{uuid4().hex[:12]}", f"serving-{uuid4().hex[:12]}")
    for name in names:
        server.create_bucket(name)
    yield names
    s3.close_clients()


@pytest.mark.parametrize("which", [0, 1], ids=["same bucket", "another bucket"])
def test_the_files_that_are_brought_are_those_that_were_published(buckets: tuple[str, str], which: int) -> None:
    address, serving = f"s3://{buckets[0]}/prod", f"s3://{buckets[which]}/serving/tiny"
    manifest = Build().publish(address)
    source = Registry(address).build_prefix(manifest.model, manifest.build_id)
    repository = open_repository(serving)
    placement = arrange(manifest, 4)
    place(repository, source, placement, 4)
    for record, path in placement.files:
        assert repository.read(path) == source.get_bytes(record.path)
    assert ("ensemble", "4") in repository.entries()
    assert not any(name == "config.pbtxt" for _, name in repository.entries())
    assert next_version(repository) == 5


def test_removing_a_version_leaves_the_others(buckets: tuple[str, str]) -> None:
    repository = open_repository(f"s3://{buckets[1]}/serving")
    for path in ("a/1/x", "a/10/x", "a/1/deep/x", "a/config.pbtxt", "rollout.json"):
        repository.write(path, b"x")
    remove_version(repository, 1)
    assert repository.entries() == {("a", "10"), ("a", "config.pbtxt")}
    assert repository.read("rollout.json") == b"x"
    assert repository.read("a/1/x") is None


def test_a_configuration_that_is_gone_from_the_registry_is_named(server: S3Server, buckets: tuple[str, str]) -> None:
    address = f"s3://{buckets[0]}/prod"
    manifest = Build().publish(address)
    source = Registry(address).build_prefix(manifest.model, manifest.build_id)
    source.delete("model_repository/ensemble/config.pbtxt")
    with pytest.raises(EngineryError, match=r"ensemble/config\.pbtxt: is missing in the registry"):
        read_configs(source, arrange(manifest, 1))


def test_a_file_that_is_gone_from_the_registry_is_named(buckets: tuple[str, str]) -> None:
    address = f"s3://{buckets[0]}/prod"
    manifest = Build().publish(address)
    source = Registry(address).build_prefix(manifest.model, manifest.build_id)
    source.delete("model_repository/tensorrt_llm/1/answers.json")
    repository = open_repository(f"s3://{buckets[0]}/serving")
    with pytest.raises(EngineryError, match="no such object to copy"):
        place(repository, source, arrange(manifest, 1), 1)

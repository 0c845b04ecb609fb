"""Tests of the local services that start no service: state, ports, environments, the demo's spec."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from mypy_boto3_s3 import S3Client

from enginery.cli.demo import BODY, demo_spec
from enginery.core.errors import StoreError, ToolchainError
from enginery.dev import servers, services
from enginery.dev.ready import LOOPBACK, answers, free_port, free_ports
from enginery.dev.s3_server import ObjectFiles
from enginery.dev.servers import prefect_environment
from enginery.dev.services import Entry, State, read_state, write_state
from tests.support.s3.server import S3Server, running_s3_server


@pytest.fixture
def s3() -> Iterator[S3Client]:
    with running_s3_server() as server:
        yield from connected(server)


def connected(server: S3Server) -> Iterator[S3Client]:
    client = server.client()
    for bucket in client.list_buckets()["Buckets"]:  # moto keeps the buckets of earlier tests in this process
        for entry in client.list_objects_v2(Bucket=bucket["Name"]).get("Contents", []):
            client.delete_object(Bucket=bucket["Name"], Key=entry["Key"])
        client.delete_bucket(Bucket=bucket["Name"])
    yield client
    client.close()


def test_objects_come_back_as_they_were(s3: S3Client, tmp_path: Path) -> None:
    s3.create_bucket(Bucket="first")
    s3.create_bucket(Bucket="empty")
    s3.put_object(Bucket="first", Key="a/b c.txt", Body=b"one", ContentType="text/plain", Metadata={"sha256": "12"})
    ObjectFiles(tmp_path).save(s3)
    s3.delete_object(Bucket="first", Key="a/b c.txt")
    s3.delete_bucket(Bucket="first")
    s3.delete_bucket(Bucket="empty")
    assert ObjectFiles(tmp_path).restore(s3) == 1
    found = s3.get_object(Bucket="first", Key="a/b c.txt")
    assert (found["Body"].read(), found["ContentType"], found["Metadata"]) == (b"one", "text/plain", {"sha256": "12"})
    assert {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]} == {"first", "empty"}


def test_saving_again_forgets_what_is_gone(s3: S3Client, tmp_path: Path) -> None:
    s3.create_bucket(Bucket="second")
    s3.put_object(Bucket="second", Key="a", Body=b"one")
    s3.put_object(Bucket="second", Key="b", Body=b"two")
    files = ObjectFiles(tmp_path)
    files.save(s3)
    assert len(list(files.blobs.iterdir())) == 2
    s3.delete_object(Bucket="second", Key="a")
    s3.put_object(Bucket="second", Key="b", Body=b"three")
    files.save(s3)
    assert [blob.read_bytes() for blob in files.blobs.iterdir()] == [b"three"]


def test_an_object_whose_metadata_alone_changed_is_saved_again(s3: S3Client, tmp_path: Path) -> None:
    s3.create_bucket(Bucket="third")
    s3.put_object(Bucket="third", Key="a", Body=b"one", Metadata={"note": "old"})
    files = ObjectFiles(tmp_path)
    files.save(s3)
    s3.put_object(Bucket="third", Key="a", Body=b"one", Metadata={"note": "new"})
    files.save(s3)
    assert files.index.objects[0].metadata == {"note": "new"}


def test_an_object_that_is_deleted_after_it_was_listed_is_not_saved(s3: S3Client, tmp_path: Path) -> None:
    s3.create_bucket(Bucket="fourth")
    s3.put_object(Bucket="fourth", Key="claim", Body=b"mine")
    s3.put_object(Bucket="fourth", Key="kept", Body=b"one")
    s3.meta.events.register_first(
        "before-call.s3.GetObject", lambda **_: s3.delete_object(Bucket="fourth", Key="claim") and None
    )
    files = ObjectFiles(tmp_path)
    files.save(s3)
    assert [saved.key for saved in files.index.objects] == ["kept"]


def test_a_bucket_that_is_deleted_after_it_was_listed_is_empty(s3: S3Client, tmp_path: Path) -> None:
    s3.create_bucket(Bucket="fifth")
    s3.meta.events.register_first("before-call.s3.ListObjectsV2", lambda **_: s3.delete_bucket(Bucket="fifth") and None)
    files = ObjectFiles(tmp_path)
    files.save(s3)
    assert files.index.objects == []


def test_another_error_than_vanishing_is_not_hidden(s3: S3Client, tmp_path: Path) -> None:
    s3.create_bucket(Bucket="sixth")
    s3.put_object(Bucket="sixth", Key="a", Body=b"one")
    (tmp_path / "blobs").write_text("a file where a directory should be")
    with pytest.raises(StoreError, match="cannot be written"):
        ObjectFiles(tmp_path).save(s3)
    assert not (tmp_path / "index.json").exists()


def test_ports_that_are_wanted_together_are_all_different() -> None:
    ports = free_ports(200)
    assert len(set(ports)) == 200


def test_a_preferred_port_is_taken_only_when_it_is_free() -> None:
    wanted = free_port()
    assert free_port(wanted) == wanted
    with socket.socket() as other:
        other.bind((LOOPBACK, wanted))
        other.listen()
        assert free_port(wanted) != wanted


def test_nobody_answers_where_nobody_listens() -> None:
    assert not answers(f"http://{LOOPBACK}:{free_port()}", "/")


def test_no_services_run_at_first() -> None:
    assert services.status() is None
    lines: list[str] = []
    services.down(lines.append)
    assert lines == ["the local services are not running"]


def test_a_process_that_only_has_the_same_id_is_not_taken_for_a_service() -> None:
    entry = Entry(pid=os.getpid(), created=1.0, url="http://127.0.0.1:1", log_file=Path("x"))
    write_state({"prefect": entry}, {})
    assert read_state().services == {"prefect": entry}
    assert read_state().alive() == {}
    assert not entry.stop()


def test_a_damaged_state_file_counts_as_none(own_home: Path) -> None:
    (own_home / "services").mkdir(parents=True)
    (own_home / "services" / "services.json").write_text("{")
    assert read_state() == State()


def test_the_prefect_server_has_nothing_of_the_users_prefect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere/api")
    monkeypatch.setenv("PREFECT_API_KEY", "not to be passed on")
    found = prefect_environment(tmp_path, 4321)
    assert "PREFECT_API_URL" not in found
    assert "PREFECT_API_KEY" not in found
    assert found["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert found["PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT"] == "false"
    assert found["PREFECT_HOME"] == str(tmp_path)


def test_settings_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://before")
    with servers.in_environment({"AWS_ENDPOINT_URL": "http://meanwhile", "AWS_DEFAULT_REGION": "x"}):
        assert os.environ["AWS_ENDPOINT_URL"] == "http://meanwhile"
    assert os.environ["AWS_ENDPOINT_URL"] == "http://before"
    assert "AWS_DEFAULT_REGION" not in os.environ


def test_the_newest_toolchain_of_a_family_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enginery.toolchains.catalog.names", lambda: ["triton-2.9", "triton-2.51", "onnxruntime-0.18"])
    assert servers.newest_toolchain("triton") == "triton-2.51"
    with pytest.raises(ToolchainError, match="no pin file"):
        servers.newest_toolchain("tensorrt")


def test_the_demo_builds_both_targets_and_serves_the_small_one() -> None:
    spec = demo_spec("http://127.0.0.1:8000")
    assert len(spec.targets) == 2
    assert spec.rollout is not None
    assert spec.rollout.endpoints == ("http://127.0.0.1:8000",)
    assert spec.rollout.target == "cpu-int4"
    assert spec.publish is not None
    assert f"{spec.publish.to}/serving/{spec.name}" == f"s3://{servers.BUCKET}/{servers.SERVING_PREFIX}"


def test_the_demo_sends_the_tutorials_request() -> None:
    assert BODY == (
        '{"text_input": "How do I count to nine in French?", '
        '"parameters": {"max_tokens": 100, "bad_words": [""], "stop_words": [""]}}'
    )

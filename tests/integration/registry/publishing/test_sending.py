# ruff: noqa: F811  fixtures are imported
"""Tests of which files of a build are sent: not those that are already there or in another build."""

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from enginery.core import digests
from enginery.core.errors import RegistryError
from enginery.core.progress import Log
from enginery.core.s3 import upload
from enginery.core.s3.download import digest_object
from enginery.core.s3.objects import ObjectInfo, Prefix
from enginery.core.s3.upload import UnfinishedUpload as Unfinished
from enginery.registry import Registry, publish
from enginery.registry import sending as sending_module
from enginery.registry.claims import CLAIM
from enginery.store.context import StepContext
from enginery.store.steps import Stage, StepRecord
from tests.support.http.faulty_proxy import Fault, Proxy
from tests.support.registry.builds import Build
from tests.support.s3.fixtures import bucket, proxy, server  # noqa: F401
from tests.support.s3.server import S3Server
from tests.support.store.records import a_record

PART = 5 << 20
LARGE = os.urandom(PART + 17)
HOME = "models/tiny-llama/builds/cpu-int4-111111111111"
ENGINE = "model_repository/tensorrt_llm/1/engine.bin"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "PART_BYTES", PART)


@pytest.fixture
def address(bucket: str) -> str:
    return f"s3://{bucket}/prod"


def a_publish(directory: Path, address: str, build: Build | None = None, engine: bytes = LARGE) -> StepContext:
    """A build with a large file. The steps have recorded their files."""
    context = (build or Build()).context(directory, address)
    repository = context.inputs["model_repository"]
    (repository / "tensorrt_llm" / "1" / "engine.bin").write_bytes(engine)
    stages = {Stage.PACKAGE: "model_repository", Stage.VALIDATE: "report", Stage.DOWNLOAD: "weights"}
    return replace(context, chain=tuple(_recorded(record, stages, context) for record in context.chain))


def _recorded(record: StepRecord, stages: dict[Stage, str], context: StepContext) -> StepRecord:
    if record.step.stage not in stages:
        return record
    described = a_record(record.step.stage, directory=context.inputs[stages[record.step.stage]])
    return record.model_copy(update={"files": described.files})


@pytest.fixture
def published(address: str, tmp_path: Path) -> Registry:
    """A registry with one build, published without faults."""
    publish(a_publish(tmp_path / "published", address))
    return Registry(address)


def sound(registry: Registry, build_id: str) -> bool:
    """Whether every byte agrees with the manifest."""
    prefix = registry.build_prefix("tiny-llama", build_id)
    files = registry.manifest("tiny-llama", build_id).files
    return all(digest_object(prefix, file.path, size=file.size) == file.sha256 for file in files)


OTHER = Build(build_id="cpu-int4-222222222222")


def test_nothing_is_read_to_be_digested_that_a_record_has_digested(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from enginery.registry import publishing

    digest = digests.file_digest

    def never(path: Path) -> str:
        assert "model_repository" not in path.parts, f"{path} was read for its digest"
        return digest(path)

    context = a_publish(tmp_path, address)
    monkeypatch.setattr(publishing, "file_digest", never)
    monkeypatch.setattr(digests, "file_digest", never)
    publish(context)
    assert sound(Registry(address), "cpu-int4-111111111111")


def test_a_record_of_other_files_is_not_believed(address: str, tmp_path: Path) -> None:
    context = a_publish(tmp_path, address)
    (context.inputs["model_repository"] / "more.txt").write_text("not recorded")
    publish(context)
    assert sound(Registry(address), "cpu-int4-111111111111")


def test_a_file_that_changed_after_it_was_recorded_is_not_published(address: str, tmp_path: Path) -> None:
    context = a_publish(tmp_path, address)
    engine = context.inputs["model_repository"] / "tensorrt_llm" / "1" / "engine.bin"
    engine.write_bytes(LARGE[:-1] + bytes([LARGE[-1] ^ 1]))
    with pytest.raises(RegistryError, match="holds other bytes than were recorded") as caught:
        publish(context)
    assert caught.value.subject == str(engine)
    assert not Registry(address).exists("tiny-llama", "cpu-int4-111111111111")


def test_publishing_again_sends_no_byte_of_a_file(
    published: Registry, proxy: Proxy, address: str, tmp_path: Path
) -> None:
    before = proxy.sent_bytes
    facts = publish(a_publish(tmp_path / "again", address))
    assert facts["uploaded_bytes"] == 0
    assert proxy.sent_bytes - before < 2000  # the few bytes of the probe


def test_what_another_build_has_is_copied_by_the_server(
    published: Registry, proxy: Proxy, address: str, tmp_path: Path
) -> None:
    before = proxy.sent_bytes
    facts = publish(a_publish(tmp_path / "other", address, OTHER))
    assert isinstance(facts["uploaded_bytes"], int)
    assert facts["uploaded_bytes"] < 20_000  # the page of the report describes the other build
    assert proxy.sent_bytes - before < 100_000
    assert sound(published, "cpu-int4-222222222222")


def test_what_a_build_of_another_model_has_is_copied_too(
    published: Registry, proxy: Proxy, address: str, tmp_path: Path
) -> None:
    publish(a_publish(tmp_path / "other", address, Build(model="other")))
    assert proxy.sent_bytes < len(LARGE)


def test_a_copy_whose_source_is_pruned_meanwhile_is_sent_instead(
    published: Registry, proxy: Proxy, server: S3Server, address: str, tmp_path: Path
) -> None:
    def prune(method: str, path: str) -> None:
        if method == "PUT" and "222222222222" in path and "engine.bin" in path:
            client = server.client()
            client.delete_object(Bucket=published.prefix.address.bucket, Key=f"prod/{HOME}/{ENGINE}")
            client.close()

    proxy.watch = prune
    facts = publish(a_publish(tmp_path / "other", address, OTHER))
    assert isinstance(facts["uploaded_bytes"], int)
    assert facts["uploaded_bytes"] > len(LARGE)
    assert sound(published, "cpu-int4-222222222222")


def test_a_source_that_is_gone_or_was_altered_in_the_bucket_is_not_copied(
    published: Registry, server: S3Server, address: str, tmp_path: Path
) -> None:
    client = server.client()
    client.put_object(Bucket=published.prefix.address.bucket, Key=f"prod/{HOME}/{ENGINE}", Body=b"\0" * len(LARGE))
    client.delete_object(Bucket=published.prefix.address.bucket, Key=f"prod/{HOME}/license/LICENSE")
    client.close()
    facts = publish(a_publish(tmp_path / "other", address, OTHER))
    assert isinstance(facts["uploaded_bytes"], int)
    assert facts["uploaded_bytes"] > len(LARGE)
    assert sound(published, "cpu-int4-222222222222")


def test_a_publisher_that_may_not_list_the_registry_sends_every_file(
    published: Registry, proxy: Proxy, address: str, tmp_path: Path
) -> None:
    body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    listing = "prefix=prod%2Fmodels%2F&"
    proxy.fail(Fault("answer", times=100, status=403, body=body, matches=lambda _, path: listing in f"{path}&"))
    context = a_publish(tmp_path / "other", address, OTHER)
    lines: list[str] = []
    context.log = lines.append
    publish(context)
    assert any("cannot be read" in line for line in lines)
    assert sound(published, "cpu-int4-222222222222")


@pytest.mark.parametrize("fault", ["answer", "reset", "flip sent"])
def test_a_publish_survives_a_put_that_fails(address: str, proxy: Proxy, tmp_path: Path, fault: str) -> None:
    def is_file(method: str, path: str) -> bool:
        return method == "PUT" and "model_repository" in path

    proxy.fail(Fault(fault, times=2, matches=is_file))  # type: ignore[arg-type]
    proxy.fail(Fault("reset", after=True, matches=is_file))
    publish(a_publish(tmp_path, address))
    assert sound(Registry(address), "cpu-int4-111111111111")


def test_an_interrupted_publish_goes_on_without_what_was_sent(address: str, proxy: Proxy, tmp_path: Path) -> None:
    body = b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    refused = Fault("answer", times=1000, status=403, body=body, matches=lambda _, path: "ensemble" in path)
    proxy.fail(refused)
    with pytest.raises(RegistryError, match="not allowed"):
        publish(a_publish(tmp_path / "1", address))
    refused.times = 0
    before, parts = proxy.sent_bytes, proxy.count("PUT", "partNumber")
    assert parts == 2
    publish(a_publish(tmp_path / "2", address))
    assert proxy.count("PUT", "partNumber") == parts
    assert proxy.sent_bytes - before < 100_000
    assert sound(Registry(address), "cpu-int4-111111111111")


def test_a_publisher_with_a_shared_claim_keeps_the_manifest_of_a_faster_publisher(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = sending_module.abort_abandoned
    manifest = f"{HOME}/manifest.json"

    def overtaken(prefix: Prefix, log: Log) -> None:
        monkeypatch.setattr(sending_module, "abort_abandoned", original)
        Registry(address).prefix.put_bytes(manifest, b"theirs")
        original(prefix, log)

    monkeypatch.setattr(sending_module, "abort_abandoned", overtaken)
    with pytest.raises(RegistryError, match="not JSON"):  # the other manifest must only exist
        publish(a_publish(tmp_path, address))
    assert Registry(address).prefix.get_bytes(manifest) == b"theirs"


# What killed publishers have left


@pytest.fixture
def claimed(address: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Prefix, datetime, list[str]]:
    """A build's prefix with a claim, the claim's time, and the uploads that are aborted. Moto dates uploads 2010."""
    prefix = Registry(address).build_prefix("tiny-llama", "cpu-int4-111111111111")
    prefix.put_bytes(CLAIM, b"{}")
    found = prefix.head(CLAIM)
    assert found and found.modified  # noqa: PT018
    aborted: list[str] = []
    monkeypatch.setattr(sending_module, "abort_upload", lambda _, upload: aborted.append(upload.upload_id))
    return prefix, found.modified, aborted


def test_uploads_from_before_the_claim_are_aborted_and_those_of_a_live_publisher_never(
    claimed: tuple[Prefix, datetime, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix, since, aborted = claimed
    begun = {"dead": since - timedelta(seconds=1), "live": since, "later": since + timedelta(hours=1)}
    unfinished = [Unfinished(f"{name}.bin", name, when) for name, when in begun.items()]
    monkeypatch.setattr(sending_module, "unfinished_uploads", lambda _: unfinished)
    lines: list[str] = []
    sending_module.abort_abandoned(prefix, lines.append)
    assert aborted == ["dead"]
    assert lines == ["removed 1 uploads that an earlier publisher had not finished"]


def test_a_server_that_cannot_list_uploads_stops_nobody(
    claimed: tuple[Prefix, datetime, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(_: Prefix) -> list[Unfinished]:
        raise RegistryError("S3 refused: NotImplemented")

    monkeypatch.setattr(sending_module, "unfinished_uploads", cannot)
    lines: list[str] = []
    sending_module.abort_abandoned(claimed[0], lines.append)
    assert "NotImplemented" in lines[0]


def test_a_publish_frees_what_one_before_has_left(server: S3Server, address: str, tmp_path: Path) -> None:
    client, place = server.client(), {"Bucket": address.split("/")[2], "Key": f"prod/{HOME}/{ENGINE}"}
    client.create_multipart_upload(**place)
    publish(a_publish(tmp_path, address))
    assert "Uploads" not in client.list_multipart_uploads(Bucket=place["Bucket"])
    client.close()


# Remembered manifests


def test_manifests_are_read_once(published: Registry, proxy: Proxy) -> None:
    for _ in range(3):
        assert [build.build_id for build in published.builds()] == ["cpu-int4-111111111111"]
    assert proxy.count("GET", "manifest.json") <= 1


def test_a_manifest_that_was_replaced_or_removed_is_seen_as_it_is_now(published: Registry, server: S3Server) -> None:
    assert published.builds()
    manifest = published.manifest("tiny-llama", "cpu-int4-111111111111")
    changed = manifest.model_copy(update={"channel": "another", "created": datetime(2030, 1, 1, tzinfo=UTC)})
    place = {"Bucket": published.prefix.address.bucket, "Key": f"prod/{HOME}/manifest.json"}
    client = server.client()
    client.put_object(**place, Body=changed.to_json())
    assert [build.channel for build in published.builds()] == ["another"]
    client.delete_object(**place)
    client.close()
    assert published.builds() == []


def test_a_kept_manifest_that_was_cut_off_is_read_again(published: Registry) -> None:
    from enginery.core.home import home

    assert published.builds()
    for kept in (home() / "manifests").iterdir():
        kept.write_bytes(kept.read_bytes()[:10])
    assert len(published.builds()) == 1


def test_one_that_cannot_be_kept_is_read_all_the_same(published: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINERY_HOME", os.devnull)
    assert len(published.builds()) == 1


def test_the_same_key_on_another_server_is_another_manifest(published: Registry, proxy: Proxy) -> None:
    from enginery.registry.reading import _local_copy

    info = ObjectInfo("x", 1, '"etag"')
    copy = _local_copy(published.prefix, info)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        assert _local_copy(published.prefix, info) != copy

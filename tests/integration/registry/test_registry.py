"""Tests of publishing to a registry and of finding builds, with a real S3 API."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from pydantic import JsonValue

from enginery.builds.manifest import License
from enginery.core.digests import bytes_digest
from enginery.core.errors import RegistryError
from enginery.core.locks import Worker
from enginery.core.s3 import Upload
from enginery.registry import Registry, is_published, publish
from enginery.registry import publishing as publishing_module
from enginery.registry.claims import CLAIM, LONGEST_PUBLISH, Holder
from enginery.registry.sending import Sending
from tests.support.registry.builds import ANSWERS, Build
from tests.support.s3.fixtures import server
from tests.support.s3.server import S3Server

__all__ = ["server"]


@pytest.fixture
def bucket(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "2")
    name = f"engines-{uuid4().hex[:12]}"
    server.create_bucket(name)
    return name


@pytest.fixture
def address(bucket: str) -> str:
    return f"s3://{bucket}/prod"


def stored(server: S3Server, address: str, path: str) -> bytes:
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    client = server.client()
    data: bytes = client.get_object(Bucket=bucket, Key=f"{prefix}/{path}")["Body"].read()
    client.close()
    return data


def write(server: S3Server, address: str, path: str, data: bytes) -> None:
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    client = server.client()
    client.put_object(Bucket=bucket, Key=f"{prefix}/{path}", Body=data)
    client.close()


def keys(server: S3Server, address: str) -> list[str]:
    return server.keys(address.removeprefix("s3://").split("/")[0])


HOME = "models/tiny-llama/builds/cpu-int4-111111111111"


def test_a_published_build_has_every_file_that_its_manifest_names(
    server: S3Server, address: str, tmp_path: Path
) -> None:
    facts = publish(Build().context(tmp_path, address))
    manifest = Registry(address).manifest("tiny-llama", "cpu-int4-111111111111")
    expected = {f"prod/{HOME}/{file.path}" for file in manifest.files}
    pointer = "prod/models/tiny-llama/channels/candidate/cpu-int4.json"
    assert set(keys(server, address)) == expected | {f"prod/{HOME}/manifest.json", pointer}
    assert facts["uri"] == f"{address}/{HOME}"
    assert facts["manifest_uri"] == f"{address}/{HOME}/manifest.json"
    assert facts["bytes"] == facts["uploaded_bytes"] == manifest.size


def test_the_manifest_digests_the_bytes_that_are_in_the_registry(
    server: S3Server, address: str, tmp_path: Path
) -> None:
    import hashlib

    publish(Build().context(tmp_path, address))
    for file in Registry(address).manifest("tiny-llama", "cpu-int4-111111111111").files:
        data = stored(server, address, f"{HOME}/{file.path}")
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (file.sha256, file.size)


def test_the_licence_the_report_and_the_chain_travel_with_the_build(
    server: S3Server, address: str, tmp_path: Path
) -> None:
    context = Build().context(tmp_path, address)
    publish(context)
    manifest = Registry(address).manifest("tiny-llama", "cpu-int4-111111111111")
    assert stored(server, address, f"{HOME}/license/LICENSE") == b"Do as you like."
    assert not any("safetensors" in file.path for file in manifest.files)
    assert manifest.steps == context.chain
    assert {result.prompt: result.got for result in manifest.validation.results} == ANSWERS


def test_a_manifest_says_where_the_engine_runs_and_which_licence_the_model_has(address: str, tmp_path: Path) -> None:
    target: dict[str, JsonValue] = {"name": "h100", "gpu": "H100-SXM5-80GB", "backend": "tensorrt"}
    context = Build().context(tmp_path, address, target={**target, "release": "1.2.1", "precision": "fp8"})
    (context.inputs["weights"] / "LICENSE").write_text("Apache License\nVersion 2.0, January 2004")
    publish(context)
    manifest = Registry(address).manifest("tiny-llama", "cpu-int4-111111111111")
    assert manifest.schema_version == 3
    assert manifest.engine.compute_capability == "9.0"
    assert manifest.license == License(id="Apache-2.0", files=("license/LICENSE",))


def test_the_output_of_the_step_says_what_was_published(address: str, tmp_path: Path) -> None:
    context = Build().context(tmp_path, address)
    facts = publish(context)
    assert json.loads((context.output / "published.json").read_text()) == facts
    manifest = Registry(address).manifest("tiny-llama", "cpu-int4-111111111111")
    assert (context.output / "manifest.json").read_bytes() == manifest.to_json()


def test_the_channel_points_at_the_build(address: str, tmp_path: Path) -> None:
    publish(Build().context(tmp_path, address))
    pointer = Registry(address).channel("tiny-llama", "candidate", "cpu-int4")
    assert pointer is not None
    assert (pointer.build_id, pointer.previous) == ("cpu-int4-111111111111", None)


def test_publishing_the_same_build_twice_sends_nothing(server: S3Server, address: str, tmp_path: Path) -> None:
    publish(Build().context(tmp_path / "1", address))
    before = stored(server, address, f"{HOME}/manifest.json")
    facts = publish(Build().context(tmp_path / "2", address))
    assert facts["uploaded_bytes"] == 0
    assert stored(server, address, f"{HOME}/manifest.json") == before


def test_another_build_of_the_same_name_is_refused_and_changes_nothing(
    server: S3Server, address: str, tmp_path: Path
) -> None:
    publish(Build().context(tmp_path / "1", address))
    before = {key: stored(server, address, key.removeprefix("prod/")) for key in keys(server, address)}
    other = Build(answers={"Who?": "another engine"}).context(tmp_path / "2", address)
    with pytest.raises(RegistryError, match=r"another build of this name: model_repository/tensorrt_llm/1/answers"):
        publish(other)
    assert {key: stored(server, address, key.removeprefix("prod/")) for key in keys(server, address)} == before


def test_a_build_that_did_not_pass_is_refused_before_anything_is_sent(
    server: S3Server, address: str, tmp_path: Path
) -> None:
    with pytest.raises(RegistryError, match="did not pass its validation"):
        publish(Build(passed=False).context(tmp_path, address))
    assert keys(server, address) == []


def test_an_interrupted_publish_is_not_seen_and_is_completed_by_the_next(
    server: S3Server, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(publishing_module, "_write_manifest", die)
        with pytest.raises(KeyboardInterrupt):
            publish(Build().context(tmp_path / "1", address))
    assert keys(server, address) != []
    registry = Registry(address)
    assert registry.builds() == []
    assert not registry.exists("tiny-llama", "cpu-int4-111111111111")
    assert registry.channel("tiny-llama", "candidate", "cpu-int4") is None
    facts = publish(Build().context(tmp_path / "2", address))
    assert facts["uploaded_bytes"] == 0
    assert [build.build_id for build in registry.builds()] == ["cpu-int4-111111111111"]


def test_files_left_by_an_interrupted_publish_of_other_contents_are_replaced(
    server: S3Server, address: str, tmp_path: Path
) -> None:
    write(server, address, f"{HOME}/model_repository/tensorrt_llm/1/answers.json", b"half")
    write(server, address, f"{HOME}/model_repository/tensorrt_llm/1/old.bin", b"left over")
    publish(Build().context(tmp_path, address))
    assert json.loads(stored(server, address, f"{HOME}/model_repository/tensorrt_llm/1/answers.json")) == ANSWERS
    assert f"prod/{HOME}/model_repository/tensorrt_llm/1/old.bin" not in keys(server, address)


def test_a_file_of_the_right_size_but_other_bytes_is_sent_again(server: S3Server, address: str, tmp_path: Path) -> None:
    size = len(json.dumps(ANSWERS))
    write(server, address, f"{HOME}/model_repository/tensorrt_llm/1/answers.json", b"x" * size)
    publish(Build().context(tmp_path, address))
    assert json.loads(stored(server, address, f"{HOME}/model_repository/tensorrt_llm/1/answers.json")) == ANSWERS


def test_losing_the_race_to_the_same_build_is_success(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = publishing_module._write_manifest
    ours = Build().context(tmp_path / "1", address)

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(publishing_module, "_write_manifest", original)
        publish(Build().context(tmp_path / "2", address))
        return original(*arguments)

    monkeypatch.setattr(publishing_module, "_write_manifest", overtaken)
    publish(ours)
    theirs = Registry(address).manifest("tiny-llama", "cpu-int4-111111111111")
    assert (ours.output / "manifest.json").read_bytes() == theirs.to_json()


def test_an_endpoint_that_ignores_conditions_is_refused(
    server: S3Server, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("enginery.registry.registry.honours_conditional_writes", lambda _: False)
    with pytest.raises(RegistryError, match="ignores If-None-Match") as caught:
        publish(Build().context(tmp_path / "1", address))
    assert "allow_unconditional_writes" in caught.value.remedy
    assert keys(server, address) == []
    publish(Build().context(tmp_path / "2", address, allow_unconditional_writes=True))
    assert Registry(address).exists("tiny-llama", "cpu-int4-111111111111")


def test_progress_is_logged_up_to_the_end(address: str, tmp_path: Path) -> None:
    lines: list[str] = []
    context = Build().context(tmp_path, address)
    context.log = lines.append
    publish(context)
    assert any("(100%)" in line for line in lines)


def test_a_bucket_that_does_not_exist_is_named(address: str, tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="bucket no-such-bucket does not exist") as caught:
        publish(Build().context(tmp_path, "s3://no-such-bucket/prod"))
    assert caught.value.subject == "s3://no-such-bucket/prod"


def test_a_server_that_is_away_is_named_and_can_be_tried_again(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "0")
    with pytest.raises(RegistryError, match=r"127\.0\.0\.1:9") as caught:
        publish(Build().context(tmp_path, address))
    assert caught.value.transient


def test_a_publish_step_stays_done_until_its_build_is_removed(server: S3Server, address: str, tmp_path: Path) -> None:
    context = Build().context(tmp_path, address)
    assert not is_published(context.parameters)
    publish(context)
    assert is_published(context.parameters)
    bucket = address.removeprefix("s3://").split("/")[0]
    client = server.client()
    client.delete_object(Bucket=bucket, Key=f"prod/{HOME}/manifest.json")
    client.close()
    assert not is_published(context.parameters)


def test_a_publish_step_stays_done_if_its_channel_moved_to_another_build_but_not_to_a_missing_one(
    server: S3Server, address: str, tmp_path: Path
) -> None:
    first = Build().context(tmp_path / "1", address)
    publish(first)
    publish(Build(build_id="cpu-int4-222222222222").context(tmp_path / "2", address))
    assert is_published(first.parameters)
    home = "models/tiny-llama/builds/cpu-int4-222222222222"
    assert Registry(address).channel("tiny-llama", "candidate", "cpu-int4") is not None
    Registry(address).prefix.delete(f"{home}/manifest.json")
    assert not is_published(first.parameters)


def test_an_empty_registry_lists_nothing(address: str) -> None:
    assert Registry(address).builds() == []


def test_builds_are_listed_by_model(address: str) -> None:
    Build().publish(address)
    Build(build_id="cpu-int4-222222222222").publish(address)
    Build(model="other").publish(address)
    registry = Registry(address)
    assert [build.model for build in registry.builds()] == ["tiny-llama", "tiny-llama", "other"]
    assert [build.build_id for build in registry.builds("other")] == ["cpu-int4-111111111111"]
    assert registry.builds("tiny") == []
    build = registry.builds("other")[0]
    assert (build.target, build.precision, build.gpu) == ("cpu-int4", "int4", "cpu")
    assert build.size == registry.manifest("other", build.build_id).size


@pytest.fixture
def three_builds(address: str) -> Registry:
    Build().publish(address)
    Build(build_id="cpu-int4-222222222222").publish(address)
    Build(model="other", build_id="gpu-fp16-111111111111", target="gpu-fp16").publish(address)
    return Registry(address)


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("cpu-int4-111111111111", "tiny-llama/cpu-int4-111111111111"),
        ("tiny-llama/cpu-int4-111111111111", "tiny-llama/cpu-int4-111111111111"),
        ("cpu-int4-1", "tiny-llama/cpu-int4-111111111111"),
        ("tiny-llama/cpu-int4-2", "tiny-llama/cpu-int4-222222222222"),
        ("gpu", "other/gpu-fp16-111111111111"),
        ("tiny-llama@candidate/cpu-int4", "tiny-llama/cpu-int4-222222222222"),
        ("other@candidate/gpu-fp16", "other/gpu-fp16-111111111111"),
    ],
)
def test_a_build_is_found_by_any_of_its_names(three_builds: Registry, reference: str, found: str) -> None:
    manifest = three_builds.find(reference)
    assert f"{manifest.model}/{manifest.build_id}" == found


@pytest.mark.parametrize(
    ("reference", "problem", "remedy"),
    [
        ("cpu-int4", "could be 2 builds", "tiny-llama/cpu-int4-111111111111, tiny-llama/cpu-int4-222222222222"),
        ("cpu-int4-11111111112", "no build", "?"),
        ("tiny-lama/cpu-int4-111111111111", "no build", "tiny-llama/cpu-int4-111111111111"),
        ("zzz", "no build", "published are"),
        ("", "no build", "published are"),
        ("tiny-llama@stable/cpu-int4", "channel stable of tiny-llama has no build for cpu-int4", "?"),
        ("tiny-llama@candidate", "does not name a channel and a target", "MODEL@CHANNEL/TARGET"),
    ],
)
def test_a_build_that_is_not_found_names_the_near_ones(
    three_builds: Registry, reference: str, problem: str, remedy: str
) -> None:
    with pytest.raises(RegistryError, match=problem) as caught:
        three_builds.find(reference)
    assert remedy in caught.value.remedy


def test_an_empty_registry_says_so(address: str) -> None:
    with pytest.raises(RegistryError, match="nothing is there yet"):
        Registry(address).find("cpu-int4")


def test_a_pointer_that_is_none_is_named(server: S3Server, address: str) -> None:
    Build().publish(address)
    write(server, address, "models/tiny-llama/channels/candidate/cpu-int4.json", b"{}")
    with pytest.raises(RegistryError, match="is not a channel pointer"):
        Registry(address).channel("tiny-llama", "candidate", "cpu-int4")


def test_a_manifest_under_another_name_is_refused(server: S3Server, address: str) -> None:
    Build().publish(address)
    data = stored(server, address, f"{HOME}/manifest.json")
    write(server, address, "models/tiny-llama/builds/cpu-int4-copy/manifest.json", data)
    with pytest.raises(RegistryError, match="describes another build"):
        Registry(address).manifest("tiny-llama", "cpu-int4-copy")


# Two publishers of the same build with different files


def claim(**changes: Any) -> bytes:
    """The claim of a publisher on another machine that has just started."""
    worker = Worker(host="another-machine", pid=7, started=1.0)
    made = Holder(files="f" * 64, worker=worker, since=datetime.now(UTC))
    return made.model_copy(update=changes).model_dump_json().encode()


@contextmanager
def sleeping_process() -> Iterator[Worker]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = psutil.Process(process.pid).create_time()
        yield Worker.this().model_copy(update={"pid": process.pid, "started": started})
        process.communicate(b"\n")


def test_the_files_of_a_publisher_at_work_are_not_written_over(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = publishing_module._write_manifest
    met: list[RegistryError] = []

    def meet_another(registry: Registry, manifest: Any) -> Any:
        monkeypatch.setattr(publishing_module, "_write_manifest", original)
        with monkeypatch.context() as patched:
            patched.setattr(Worker, "is_at_work", lambda _: True)  # both publishers run in this process
            with pytest.raises(RegistryError) as caught:
                publish(Build(answers={"Who?": "another engine"}).context(tmp_path / "2", address))
        met.append(caught.value)
        return original(registry, manifest)

    monkeypatch.setattr(publishing_module, "_write_manifest", meet_another)
    publish(Build().context(tmp_path / "1", address))
    assert met[0].transient
    assert "another publisher is sending other files" in str(met[0])
    registry = Registry(address)
    prefix = registry.build_prefix("tiny-llama", "cpu-int4-111111111111")
    for file in registry.manifest("tiny-llama", "cpu-int4-111111111111").files:
        assert bytes_digest(prefix.get_bytes(file.path) or b"") == file.sha256


def test_a_claim_goes_when_the_build_is_there_or_has_failed(
    server: S3Server, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RegistryError("no")

    with monkeypatch.context() as patched:
        patched.setattr(Sending, "send", fail)
        with pytest.raises(RegistryError):
            publish(Build().context(tmp_path / "1", address))
    assert f"prod/{HOME}/{CLAIM}" not in keys(server, address)
    publish(Build().context(tmp_path / "2", address))
    assert f"prod/{HOME}/{CLAIM}" not in keys(server, address)


def test_the_claim_of_a_running_process_of_this_machine_is_valid(
    server: S3Server, address: str, tmp_path: Path
) -> None:
    with sleeping_process() as worker:
        write(server, address, f"{HOME}/{CLAIM}", claim(worker=worker))
        with pytest.raises(RegistryError, match=f"process {worker.pid} on") as caught:
            publish(Build().context(tmp_path / "1", address))
        assert caught.value.transient
        assert keys(server, address) == [f"prod/{HOME}/{CLAIM}"]
    publish(Build().context(tmp_path / "2", address))  # its process has ended


def test_the_claim_of_another_machine_is_valid_for_the_longest_time_of_a_publish(
    server: S3Server, address: str, tmp_path: Path
) -> None:
    write(server, address, f"{HOME}/{CLAIM}", claim())
    with pytest.raises(RegistryError, match="on another-machine"):
        publish(Build().context(tmp_path / "1", address))
    write(server, address, f"{HOME}/{CLAIM}", claim(since=datetime.now(UTC) - LONGEST_PUBLISH))
    publish(Build().context(tmp_path / "2", address))
    assert f"prod/{HOME}/{CLAIM}" not in keys(server, address)


def test_a_damaged_claim_stops_nobody(server: S3Server, address: str, tmp_path: Path) -> None:
    write(server, address, f"{HOME}/{CLAIM}", b"{}")
    publish(Build().context(tmp_path, address))
    assert Registry(address).exists("tiny-llama", "cpu-int4-111111111111")


def test_a_publisher_whose_claim_was_taken_over_writes_no_manifest(
    server: S3Server, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Sending.send

    def overtaken(sending: Sending, files: Sequence[Upload]) -> int:
        write(server, address, f"{HOME}/{CLAIM}", claim())
        return original(sending, files)

    monkeypatch.setattr(Sending, "send", overtaken)
    with pytest.raises(RegistryError, match="taken over the claim of this publisher"):
        publish(Build().context(tmp_path, address))
    assert not Registry(address).exists("tiny-llama", "cpu-int4-111111111111")
    assert f"prod/{HOME}/{CLAIM}" in keys(server, address)

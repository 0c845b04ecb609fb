"""Registries with builds of several ages and states, for the tests of upkeep."""

from datetime import UTC, datetime, timedelta

from enginery.builds.manifest import BuildTarget, Manifest
from enginery.core.digests import bytes_digest
from enginery.core.locks import Worker
from enginery.core.s3 import Address
from enginery.registry import Registry
from enginery.registry.channels import Action, change_channel, new_move
from enginery.registry.claims import CLAIM, Holder
from enginery.store.steps import FileRecord
from tests.support.registry.builds import ANSWERS, a_report
from tests.support.s3.server import S3Server
from tests.support.store.records import a_chain

LATER = timedelta(days=60)


def build_id(number: int, target: str = "cpu-int4") -> str:
    return f"{target}-{number:012d}"


def publish_builds(address: str, count: int, target: str = "cpu-int4") -> list[str]:
    """Publish `count` small builds of a target and return their ids, oldest first. `candidate` points to the last."""
    names = [build_id(number, target) for number in range(1, count + 1)]
    for name in names:
        put_build(address, name)
    return names


def put_build(address: str, name: str, model: str = "tiny-llama", channel: str | None = "candidate") -> None:
    """Write a build of two small files, as publishing would leave it, and point a channel to it."""
    registry, now = Registry(address), datetime.now(UTC)
    target = BuildTarget(
        name=name.rpartition("-")[0], gpu="cpu", backend="onnxruntime", release="0.18.0", precision="int4"
    )
    files = {"model_repository/a/config.pbtxt": b"config", "report.json": name.encode()}
    manifest = Manifest(
        model=model,
        build_id=name,
        target=target,
        created=now,
        enginery="0.1.0",
        registry=address,
        channel="candidate",
        files=tuple(FileRecord(path=path, sha256=bytes_digest(data), size=len(data)) for path, data in files.items()),
        steps=a_chain(),
        validation=a_report(ANSWERS),
    )
    prefix = registry.build_prefix(model, name)
    for path, data in [*files.items(), ("manifest.json", manifest.to_json())]:
        prefix.put_bytes(path, data)
    if channel:
        move(address, channel, name, model)


def move(address: str, channel: str, name: str, model: str = "tiny-llama") -> None:
    """Point a channel at a build without checking that the build is there."""
    change_channel(
        Registry(address).prefix,
        model,
        channel,
        name.rpartition("-")[0],
        lambda now: new_move(Action.PUBLISH, now, name, ""),
    )


def at(address: str) -> tuple[str, str]:
    """The bucket and the prefix of an address."""
    place = Address.parse(address)
    return place.bucket, place.prefix


def objects(server: S3Server, address: str) -> dict[str, bytes]:
    """Every object of the bucket: path relative to the registry -> bytes."""
    bucket, prefix = at(address)
    return {
        key.removeprefix(f"{prefix}/"): server.admin.get_object(Bucket=bucket, Key=key)["Body"].read()
        for key in server.keys(bucket)
    }


def write(server: S3Server, address: str, path: str, data: bytes) -> None:
    bucket, prefix = at(address)
    server.admin.put_object(Bucket=bucket, Key=f"{prefix}/{path}", Body=data)


def remove(server: S3Server, address: str, path: str) -> None:
    bucket, prefix = at(address)
    server.admin.delete_object(Bucket=bucket, Key=f"{prefix}/{path}")


def begin_upload(server: S3Server, address: str, path: str) -> str:
    """Begin a multipart upload, send one part, and return the upload's id."""
    bucket, prefix = at(address)
    key = f"{prefix}/{path}"
    upload: str = server.admin.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    server.admin.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"part")
    return upload


def uploads(server: S3Server, address: str) -> list[str]:
    """The keys of all unfinished multipart uploads."""
    bucket, _ = at(address)
    found = server.admin.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    return [entry["Key"] for entry in found]


def a_claim(files: str = "digest") -> bytes:
    """The claim of a publisher on another machine. It began just now, so it may still be running."""
    worker = Worker(host="another-machine", pid=1, started=1.0)
    return Holder(files=files, worker=worker, since=datetime.now(UTC)).model_dump_json().encode()


def claim_path(build: str, model: str = "tiny-llama") -> str:
    return f"models/{model}/builds/{build}/{CLAIM}"


def listed(address: str) -> list[str]:
    """The ids of the published builds, sorted."""
    return sorted(build.build_id for build in Registry(address).builds())

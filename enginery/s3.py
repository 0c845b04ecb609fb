"""The one place that talks to S3: addresses, the client, and objects under an address, read and written patiently.

A server that is away for some seconds is waited for: `ENGINERY_S3_PATIENCE` says how many (30). Endpoint, region and
credentials come from the usual AWS settings (`AWS_ENDPOINT_URL`, `AWS_PROFILE`, `~/.aws/config` …).
"""

import os
import re
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from enginery import __version__
from enginery.digests import bytes_digest, json_digest
from enginery.errors import EngineryError, StoreError, UsageError
from enginery.output import without_sign_in
from enginery.s3_errors import PreconditionFailed, answer_code, failed_condition, translated_errors

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from mypy_boto3_s3 import S3Client

__all__ = [
    "Address", "Content", "ObjectInfo", "PreconditionFailed", "Prefix", "client", "close_clients", "endpoint",
    "honours_conditional_writes", "translated_errors",
]  # fmt: skip

MULTIPART_BYTES = 64 << 20
LARGEST_SINGLE_COPY = 5 << 30
CONNECTIONS = 32
PAGE = 1000
CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
DEFAULT_PATIENCE = 30.0

T = TypeVar("T")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_clients: dict[str, "S3Client"] = {}
_clients_lock = threading.Lock()
_conditional: dict[tuple[str, str], bool] = {}


def patience() -> float:
    """Seconds for which a server that does not answer is tried again, counted from the first failure.

    Raises:
        UsageError: when `ENGINERY_S3_PATIENCE` is not a number.
    """
    chosen = os.environ.get("ENGINERY_S3_PATIENCE") or DEFAULT_PATIENCE
    try:
        return float(chosen)
    except ValueError as error:
        raise UsageError("is not a number", subject="ENGINERY_S3_PATIENCE", remedy="set it to seconds") from error


@dataclass(frozen=True)
class Address:
    """A bucket and a prefix in it, written `s3://bucket/prefix`; the prefix has no slash at either end."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `s3://bucket/prefix`.

        Raises:
            UsageError: when it is not such an address.
        """
        bucket, _, prefix = text.removeprefix("s3://").partition("/")
        if not text.startswith("s3://") or not _BUCKET.fullmatch(bucket):
            remedy = "write it as s3://bucket/prefix"
            raise UsageError("is not an address in S3", subject=text or "(nothing)", remedy=remedy)
        return cls(bucket, prefix.strip("/"))

    def key(self, *parts: str) -> str:
        """The object key of `parts` joined under the prefix."""
        return "/".join(part for part in (self.prefix, *parts) if part)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


@dataclass(frozen=True)
class ObjectInfo:
    """An object without its bytes.

    Attributes:
        path: the key, relative to the prefix that was asked.
        size: bytes.
        etag: S3's name for this content, with its quotes.
        sha256: 64 hex digits, where the writer left it; a listing does not say it.
        metadata: what the writer noted; a listing does not say it.
    """

    path: str
    size: int
    etag: str
    sha256: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Content:
    """An object's bytes, and the etag to replace just these with `put_bytes(…, if_match=etag)`."""

    data: bytes
    etag: str


def client() -> "S3Client":
    """The process's client; another one after the AWS settings or the process have changed. Thread-safe.

    Raises:
        StoreError: when the AWS settings do not make sense.
    """
    settings = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    name = json_digest([os.getpid(), patience(), settings])
    with _clients_lock:
        if name not in _clients:
            _clients[name] = _new_client()
        return _clients[name]


def close_clients() -> None:
    """Close every connection; the next call of `client` opens new ones."""
    with _clients_lock:
        while _clients:
            _clients.popitem()[1].close()
        _conditional.clear()


def endpoint() -> str:
    """The URL of the server in use, without user name or password."""
    return without_sign_in(client().meta.endpoint_url)


def _new_client() -> "S3Client":
    from boto3.session import Session  # noqa: PLC0415  not needed to make a plan
    from botocore.config import Config  # noqa: PLC0415

    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=max(1.0, min(READ_SECONDS, patience())),
        max_pool_connections=CONNECTIONS,
        # A part of a large upload can only be tried again in here; all else is what `patiently` does.
        retries={"mode": "standard", "total_max_attempts": max(1, min(4, int(patience() // 5)))},
        user_agent_extra=f"enginery/{__version__}",
    )
    try:
        session = Session()
        region = session.region_name or "us-east-1"
        made = session.client("s3", region_name=region, config=config)
        if "amazonaws." in made.meta.endpoint_url:
            return made
        made.close()  # other servers seldom have a host name for each bucket
        return session.client("s3", region_name=region, config=config.merge(Config(s3={"addressing_style": "path"})))
    except ValueError as error:
        raise StoreError(f"AWS settings: {error}", remedy="correct AWS_ENDPOINT_URL or the profile") from error


def patiently(call: Callable[[], T]) -> T:
    """Call until it works, or fails with what cannot pass, or has failed for `patience()` seconds."""
    from tenacity import RetryCallState, Retrying, retry_if_exception, wait_exponential, wait_random  # noqa: PLC0415

    trouble: list[float] = []

    def enough(_: RetryCallState) -> bool:
        trouble.append(time.monotonic())
        return trouble[-1] - trouble[0] >= patience()

    can_pass = retry_if_exception(lambda error: isinstance(error, EngineryError) and error.transient)
    waits = wait_exponential(multiplier=0.1, max=3.0) + wait_random(0, 0.2)
    return Retrying(retry=can_pass, stop=enough, wait=waits, reraise=True)(call)


class Prefix:
    """The objects under an address. Paths are relative to it, with forward slashes.

    Every method waits for a server that is away, and raises `error_class` when it cannot do its work.
    """

    def __init__(self, address: Address, error_class: type[EngineryError] = StoreError) -> None:
        self.address = address
        self.error_class = error_class

    def where(self, path: str) -> str:
        """The full address of `path`, for messages."""
        return f"s3://{self.address.bucket}/{self.address.key(path)}"

    def attempt(self, path: str, call: Callable[["S3Client"], T]) -> T:
        """One call of S3, its errors translated."""
        with translated_errors(self.where(path), self.error_class):
            connection = client()
        with translated_errors(self.where(path), self.error_class, endpoint=endpoint()):
            return call(connection)

    def patiently(self, path: str, call: Callable[["S3Client"], T]) -> T:
        """Like `attempt`, and again while the server is away."""
        return patiently(lambda: self.attempt(path, call))

    def get(self, path: str) -> Content | None:
        """A small object, or None when there is none."""
        return self.patiently(path, lambda s3: self._get(s3, path))

    def get_bytes(self, path: str) -> bytes | None:
        """A small object's bytes, or None when there is none."""
        content = self.get(path)
        return content.data if content else None

    def _get(self, s3: "S3Client", path: str) -> Content | None:
        from botocore.exceptions import ClientError  # noqa: PLC0415

        try:
            answer = s3.get_object(Bucket=self.address.bucket, Key=self.address.key(path))
        except ClientError as error:
            if answer_code(error) == "NoSuchKey":
                return None
            raise
        with closing(answer["Body"]) as body:
            return Content(body.read(), answer["ETag"])

    def put_bytes(
        self,
        path: str,
        data: bytes,
        *,
        if_none_match: bool = False,
        if_match: str | None = None,
        content_type: str = "application/octet-stream",
    ) -> str:
        """Write a small object and return its etag.

        Args:
            path: where.
            data: the content.
            if_none_match: write only when there is no object yet.
            if_match: write only over the object with this etag.
            content_type: what browsers are told.

        Raises:
            PreconditionFailed: when the condition does not hold. A write of ours whose answer was lost counts as done.
        """
        conditions: dict[str, Any] = {"IfNoneMatch": "*"} if if_none_match else {}
        conditions |= {"IfMatch": if_match} if if_match is not None else {}
        attempts = 0

        def put(s3: "S3Client") -> str:
            nonlocal attempts
            attempts += 1
            return self._put(s3, path, data, {**conditions, "ContentType": content_type}, again=attempts > 1)

        return self.patiently(path, put)

    def _put(self, s3: "S3Client", path: str, data: bytes, options: dict[str, Any], *, again: bool) -> str:
        from botocore.exceptions import ClientError  # noqa: PLC0415

        digest = bytes_digest(data)
        try:
            answer = s3.put_object(
                Bucket=self.address.bucket, Key=self.address.key(path), Body=data, **_digested(digest), **options
            )
        except ClientError as error:
            if _condition_failed(error, options):
                found = self._get(s3, path)
                if found and found.data == data and (again or error.response["ResponseMetadata"].get("RetryAttempts")):
                    return found.etag
                raise failed_condition(self.where(path)) from error
            raise
        return answer["ETag"]

    def head(self, path: str) -> ObjectInfo | None:
        """What is known of an object, or None when there is none."""
        return self.patiently(path, lambda s3: self._head(s3, path))

    def _head(self, s3: "S3Client", path: str) -> ObjectInfo | None:
        from botocore.exceptions import ClientError  # noqa: PLC0415

        try:
            answer = s3.head_object(Bucket=self.address.bucket, Key=self.address.key(path))
        except ClientError as error:
            if answer_code(error) not in {"404", "403"}:
                raise
            # An answer to HEAD has no body, so it does not say whether key, bucket or permission is missing.
            if self._get(s3, path) is None:
                return None
            raise
        metadata = answer["Metadata"]
        return ObjectInfo(path, answer["ContentLength"], answer["ETag"], metadata.get("sha256"), metadata)

    def list(self, path: str = "") -> Iterator[ObjectInfo]:
        """Every object under `path`, taken as a directory; sorted by path."""
        under = self.address.key(path)
        options: dict[str, Any] = {
            "Bucket": self.address.bucket,
            "MaxKeys": PAGE,
            "Prefix": f"{under}/" if under else "",
        }
        cut = len(self.address.prefix) + 1 if self.address.prefix else 0
        while True:
            page = self.patiently(path, lambda s3: s3.list_objects_v2(**options))
            for entry in page.get("Contents", []):
                yield ObjectInfo(entry["Key"][cut:], entry["Size"], entry["ETag"])
            if not page["IsTruncated"]:
                return
            options["ContinuationToken"] = page["NextContinuationToken"]

    def upload(self, path: str, file: Path, sha256: str) -> None:
        """Write a file; its digest is noted in the object's metadata and, for a single part, checked by the server."""
        large = file.stat().st_size > MULTIPART_BYTES
        self.patiently(path, lambda s3: (self._upload_parts if large else self._upload)(s3, path, file, sha256))

    def _upload(self, s3: "S3Client", path: str, file: Path, sha256: str) -> None:
        with file.open("rb") as body:
            s3.put_object(Bucket=self.address.bucket, Key=self.address.key(path), Body=body, **_digested(sha256))

    def _upload_parts(self, s3: "S3Client", path: str, file: Path, sha256: str) -> None:
        from boto3.s3.transfer import TransferConfig  # noqa: PLC0415

        parts = TransferConfig(multipart_threshold=MULTIPART_BYTES, multipart_chunksize=MULTIPART_BYTES)
        noted = {"Metadata": {"sha256": sha256}}
        s3.upload_file(str(file), self.address.bucket, self.address.key(path), ExtraArgs=noted, Config=parts)

    def download(
        self, path: str, destination: Path, *, size: int, sha256: str | None = None, etag: str | None = None
    ) -> str:
        """Write an object to `destination`, whole and checked or not at all, and return its SHA-256.

        Args:
            path: the object.
            destination: a file that is replaced when there is one; missing parent directories are made.
            size: the bytes it must have.
            sha256: the digest it must have; None to accept any.
            etag: the object it must be, from its first byte to its last; None to accept any.

        Raises:
            EngineryError: of `error_class`, also when the object is missing, or stays another than it should be.
        """
        from enginery.s3_download import download  # noqa: PLC0415  it needs this module

        return download(self, path, destination, size=size, sha256=sha256, etag=etag)

    def copy(self, source: str, path: str) -> None:
        """Copy an object to another path; the bytes stay on the server."""
        found = self.head(source)
        if found is None:
            raise self.error_class("there is no such object to copy", subject=self.where(source))
        self.patiently(path, lambda s3: self._copy(s3, found, path))

    def _copy(self, s3: "S3Client", source: ObjectInfo, path: str) -> None:
        origin: Any = {"Bucket": self.address.bucket, "Key": self.address.key(source.path)}
        if source.size <= LARGEST_SINGLE_COPY:
            s3.copy_object(Bucket=self.address.bucket, Key=self.address.key(path), CopySource=origin)
        else:
            noted = {"Metadata": dict(source.metadata)}
            s3.copy(origin, self.address.bucket, self.address.key(path), ExtraArgs=noted)

    def delete(self, path: str) -> None:
        """Remove an object; none there is fine."""
        self.patiently(path, lambda s3: s3.delete_object(Bucket=self.address.bucket, Key=self.address.key(path)))


def _digested(sha256: str) -> dict[str, Any]:
    return {"ChecksumSHA256": b64encode(bytes.fromhex(sha256)).decode(), "Metadata": {"sha256": sha256}}


def _condition_failed(error: "ClientError", options: Mapping[str, Any]) -> bool:
    code = answer_code(error)
    return code in {"412", "PreconditionFailed"} or (code == "NoSuchKey" and "IfMatch" in options)


def honours_conditional_writes(prefix: Prefix) -> bool:
    """Whether the server keeps to If-None-Match and If-Match; tried once per server and bucket, with a small object.

    Raises:
        EngineryError: of the prefix's class, when nothing can be written there.
    """
    place = (endpoint(), prefix.address.bucket)
    if place not in _conditional:
        _conditional[place] = _probe(prefix)
    return _conditional[place]


class _Probed(Prefix):
    """What is wrong with a probe is wrong with the prefix: nobody asked for the probe's own object."""

    def where(self, path: str) -> str:  # noqa: ARG002  the same for every object
        return str(self.address)


def _probe(asked: Prefix) -> bool:
    prefix = _Probed(asked.address, asked.error_class)
    path = f".probe-{os.getpid()}-{time.time_ns()}"
    prefix.put_bytes(path, b"first")
    try:
        return _refuses(prefix, path, if_none_match=True) and _refuses(prefix, path, if_match='"0"')
    finally:
        prefix.delete(path)


def _refuses(prefix: Prefix, path: str, **condition: Any) -> bool:
    try:
        prefix.put_bytes(path, b"second", **condition)
    except PreconditionFailed:
        return True
    return False

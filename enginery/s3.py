"""The one place that talks to S3: addresses, and objects under an address, read and written patiently."""

import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from enginery.digests import bytes_digest
from enginery.errors import EngineryError, StoreError, UsageError
from enginery.s3_client import Connection, client, close_clients, connection, endpoint, patience, patiently
from enginery.s3_errors import (
    PreconditionFailed,
    answer_code,
    failed_condition,
    translated_answers,
    translated_errors,
)
from enginery.told import Told, nobody

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from mypy_boto3_s3 import S3Client

__all__ = [
    "Address", "Content", "ObjectInfo", "PreconditionFailed", "Prefix", "client", "close_clients", "endpoint",
    "honours_conditional_writes", "patience", "patiently", "translated_errors",
]  # fmt: skip

PAGE = 1000
READINGS = 3
"""What is still not as its writer noted by then is so in the bucket, and for the reader to judge."""
PROBE = ".probe-"
"""How the names of the objects begin with which a server is tried."""

T = TypeVar("T")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")


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
        modified: when it was written, UTC.
    """

    path: str
    size: int
    etag: str
    sha256: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    modified: datetime | None = None


@dataclass(frozen=True)
class Content:
    """An object's bytes, and the etag to replace just these with `put_bytes(…, if_match=etag)`.

    `sha256` is what their writer noted, 64 hex digits; None where it did not.
    """

    data: bytes
    etag: str
    sha256: str | None = None


class Prefix:
    """The objects under an address. Paths are relative to it, with forward slashes.

    Every method waits for a server that is away, and raises `error_class` when it cannot do its work.
    """

    def __init__(self, address: Address, error_class: type[EngineryError] = StoreError) -> None:
        self.address = address
        self.error_class = error_class
        self._settled: Connection | None = None

    def settled(self) -> Self:
        """The same for many requests: the AWS settings are looked at now, and not again for each of them.

        Raises:
            EngineryError: of `error_class`, when they do not make sense.
        """
        made = copy(self)
        made._settled = self.connection()  # noqa: SLF001  it is one of us
        return made

    def connection(self) -> Connection:
        """What talks to the server.

        Raises:
            EngineryError: of `error_class`, when the AWS settings do not make sense.
        """
        if self._settled is not None:
            return self._settled
        with translated_errors(self.address, self.error_class):
            return connection()

    def where(self, path: str) -> str:
        """The full address of `path`, for messages."""
        return f"s3://{self.address.bucket}/{self.address.key(path)}"

    def attempt(self, path: str, call: Callable[["S3Client"], T]) -> T:
        """One call of S3, its errors translated."""
        used = self.connection()
        with translated_answers(self.where(path), self.error_class, endpoint=used.endpoint):
            return call(used.client)

    def patiently(self, path: str, call: Callable[["S3Client"], T]) -> T:
        """Like `attempt`, and again while the server is away."""
        return patiently(lambda: self.attempt(path, call))

    def get(self, path: str) -> Content | None:
        """A small object, or None when there is none."""
        content = None
        for _ in range(READINGS):
            content = self.patiently(path, lambda s3: self._get(s3, path))
            if content is None or content.sha256 in {None, bytes_digest(content.data)}:
                break  # else once more, as a network alters bytes too
        return content

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
            return Content(body.read(), answer["ETag"], answer["Metadata"].get("sha256"))

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
                Bucket=self.address.bucket, Key=self.address.key(path), Body=data, **digested(digest), **options
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
            if answer_code(error) == "403":
                raise
            answer = s3.head_object(Bucket=self.address.bucket, Key=self.address.key(path))  # it was written just now
        metadata = answer["Metadata"]
        size, etag, modified = answer["ContentLength"], answer["ETag"], answer["LastModified"]
        return ObjectInfo(path, size, etag, metadata.get("sha256"), metadata, modified)

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
                yield ObjectInfo(entry["Key"][cut:], entry["Size"], entry["ETag"], modified=entry["LastModified"])
            if not page["IsTruncated"]:
                return
            options["ContinuationToken"] = page["NextContinuationToken"]

    def upload(self, path: str, file: Path, sha256: str, told: Told = nobody) -> None:
        """Write a file whose digest is `sha256`; each request carries the digest of its bytes, for the server to check.

        Args:
            path: where.
            file: what is read, once.
            sha256: the digest it must have; also noted in the object's metadata.
            told: takes the bytes of each piece that has arrived; fewer than none when a piece has to be sent again.

        Raises:
            EngineryError: of `error_class`, also when the file is another than it should be; then nothing is written.
        """
        from enginery.s3_upload import upload  # noqa: PLC0415  it needs this module

        upload(self, path, file, sha256, told)

    def download(  # noqa: PLR0913  what the bytes must be
        self,
        path: str,
        destination: Path,
        *,
        size: int,
        sha256: str | None = None,
        etag: str | None = None,
        resume: bool = False,
        told: Told = nobody,
    ) -> str:
        """Write an object to `destination`, whole and checked or not at all, and return its SHA-256.

        Args:
            path: the object.
            destination: a file that is replaced when there is one; missing parent directories are made.
            size: the bytes it must have.
            sha256: the digest it must have; None to accept any.
            etag: the object it must be, from its first byte to its last; None to accept any.
            resume: keep what has come of a large object when the download fails or is killed, in a hidden file beside
                `destination`, and go on there; it needs `sha256`, and no two may do so for one destination at once.
            told: takes the bytes of each piece that is digested; fewer than none when that has to be done again.

        Raises:
            EngineryError: of `error_class`, also when the object is missing, or stays another than it should be.
        """
        from enginery.s3_download import download  # noqa: PLC0415  it needs this module

        return download(self, path, destination, size=size, sha256=sha256, etag=etag, resume=resume, told=told)

    def digest(self, path: str, *, size: int) -> str:
        """Read an object of `size` bytes to its end, keep nothing of it, and return its SHA-256.

        Raises:
            EngineryError: of `error_class`, also when the object is missing or has another size.
        """
        from enginery.s3_download import digest  # noqa: PLC0415  it needs this module

        return digest(self, path, size=size)

    def copy(self, source: str, path: str) -> None:
        """Copy an object to another path; the bytes stay on the server.

        Raises:
            EngineryError: of `error_class`, also when there is no such object.
        """
        found = self.head(source)
        if found is None:
            raise self.error_class("there is no such object to copy", subject=self.where(source))
        self.copy_found(self, found, path)

    def copy_found(self, origin: "Prefix", source: ObjectInfo, path: str) -> None:
        """Copy what was found under another prefix, with its notes; the bytes stay on the server.

        Raises:
            Gone: when it is not there any more, or another object has taken its place.
            EngineryError: of `error_class`, when it cannot be copied.
        """
        from enginery.s3_copy import copy_object  # noqa: PLC0415  it needs this module

        copy_object(self, origin, source, path)

    def delete(self, path: str) -> None:
        """Remove an object; none there is fine."""
        self.patiently(path, lambda s3: s3.delete_object(Bucket=self.address.bucket, Key=self.address.key(path)))


def digested(sha256: str) -> dict[str, Any]:
    """The options of a put of bytes with this digest: the server checks it, and a HEAD tells it later."""
    return {"ChecksumSHA256": b64encode(bytes.fromhex(sha256)).decode(), "Metadata": {"sha256": sha256}}


def _condition_failed(error: "ClientError", options: Mapping[str, Any]) -> bool:
    code = answer_code(error)
    return code in {"412", "PreconditionFailed"} or (code == "NoSuchKey" and "IfMatch" in options)


def honours_conditional_writes(prefix: Prefix) -> bool:
    """Whether the server keeps to If-None-Match and If-Match; tried once per server and bucket, with a small object.

    Raises:
        EngineryError: of the prefix's class, when nothing can be written there.
    """
    from enginery.s3_conditional import honours_conditional_writes as honours  # noqa: PLC0415  it needs this module

    return honours(prefix)

"""Reading, writing, listing and copying the objects under an address in S3. Requests are retried."""

from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

from enginery.core.digests import bytes_digest
from enginery.core.errors import EngineryError, StoreError
from enginery.core.late import late
from enginery.core.s3.address import Address
from enginery.core.s3.client import Connection, connection, patiently
from enginery.core.s3.errors import (
    FAILED_CONDITION,
    Gone,
    PreconditionFailed,
    error_code,
    failed_condition,
    not_s3,
    translated_errors,
)

if TYPE_CHECKING:
    from boto3.s3 import transfer as boto3_s3_transfer
    from botocore import exceptions as botocore_exceptions
    from botocore.exceptions import ClientError
    from mypy_boto3_s3 import S3Client
else:
    boto3_s3_transfer = late("boto3.s3.transfer")
    botocore_exceptions = late("botocore.exceptions")


PAGE = 1000
LISTINGS = {"list_objects_v2": ("Contents", "MaxKeys"), "list_multipart_uploads": ("Uploads", "MaxUploads")}
"""Operation -> the field of its answer that has the entries, and the option for the number of entries in a page."""
NEXT_PAGE = {
    "ContinuationToken": "NextContinuationToken",
    "KeyMarker": "NextKeyMarker",
    "UploadIdMarker": "NextUploadIdMarker",
}
"""Option of a listing -> the field of an answer that has the option's value for the next page."""
READ_ATTEMPTS = 3
"""How often an object is read when its bytes do not have the recorded digest."""
LARGEST_SINGLE_COPY = 5 << 30
COPY_PART_BYTES = 512 << 20
CHECKSUM_UNKNOWN = {"501", "NotImplemented"}
"""Error codes of servers that cannot make a checksum of the whole object when they copy it, such as Cloudflare's R2
(https://github.com/cloudflare/cloudflare-docs/issues/4508). Enginery asks for it because the checksum of an object that
was sent in parts is a checksum of the parts."""
UNSAID = {"301", "400", "403", "404"}
"""Codes of answers to HEAD that have many reasons."""
SOURCE_GONE = {"404", "NoSuchKey"} | FAILED_CONDITION

T = TypeVar("T")


@dataclass(frozen=True)
class ObjectInfo:
    """An object, without its bytes.

    Attributes:
        path: the key, relative to the prefix.
        size: bytes.
        etag: the ETag, with its quotes.
        sha256: 64 hex digits, from the metadata; None when the metadata has none, and in a listing.
        metadata: the user metadata; empty in a listing.
        modified: when the object was written, UTC.
    """

    path: str
    size: int
    etag: str
    sha256: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    modified: datetime | None = None


@dataclass(frozen=True)
class Content:
    """An object's bytes and its ETag. `put_bytes(…, if_match=etag)` replaces the object only if it has not changed.

    `sha256` has 64 hex digits, from the metadata; None when the metadata has none.
    """

    data: bytes
    etag: str
    sha256: str | None = None


class Prefix:
    """The objects under an address. Paths are relative to the address, with forward slashes.

    Every method except `attempt` retries while the server cannot be reached, and raises `error_class` when it fails.
    """

    def __init__(self, address: Address, error_class: type[EngineryError] = StoreError) -> None:
        self.address = address
        self.error_class = error_class
        self._kept_connection: Connection | None = None

    def with_kept_connection(self) -> Self:
        """This prefix for many requests: the AWS settings are read once, not for each request."""
        made = copy(self)
        made._kept_connection = self.connection()  # noqa: SLF001  the same class
        return made

    def connection(self) -> Connection:
        """The clients of the server."""
        if self._kept_connection is not None:
            return self._kept_connection
        with translated_errors(self.address, self.error_class):
            return connection()

    def where(self, path: str) -> str:
        """The full address of the object `path`, for messages."""
        return f"s3://{self.address.bucket}/{self.address.key(path)}"

    def attempt(self, path: str, call: Callable[["S3Client"], T]) -> T:
        """Call `call` with the S3 client once, and translate its errors."""
        used = self.connection()
        try:
            with translated_errors(self.where(path), self.error_class, endpoint=used.endpoint, disk=False):
                return call(used.client)
        except KeyError as error:  # boto3 leaves out what the answer left out
            problem = f"the server at {used.endpoint} left {error} out of its answer"
            raise not_s3(problem, self.where(path), self.error_class) from error

    def digest_options(self, sha256: str) -> dict[str, Any]:
        """The options to write bytes with this digest: the server checks it, and keeps it in the metadata."""
        return {"Metadata": {"sha256": sha256}, **self.checksum_option(sha256)}

    def checksum_option(self, sha256: str) -> dict[str, Any]:
        """The option with which the server checks the digest of the bytes; none if the user wants no checksums sent."""
        if not self.connection().checksums:
            return {}
        return {"ChecksumSHA256": b64encode(bytes.fromhex(sha256)).decode()}

    def checksum_kind(self) -> dict[str, Any]:
        """The option with which the server makes a checksum by itself; none if the user wants no checksums sent."""
        return {"ChecksumAlgorithm": "SHA256"} if self.connection().checksums else {}

    def patiently(self, path: str, call: Callable[["S3Client"], T]) -> T:
        """Like `attempt`, with retries while the server cannot be reached."""
        return patiently(lambda: self.attempt(path, call))

    def get(self, path: str) -> Content | None:
        """A small object, or None when it does not exist.

        A network can alter bytes. So if the digest is not the one in the metadata, the object is read again, until the
        same bytes arrive twice.
        """
        found: set[bytes] = set()
        for _ in range(READ_ATTEMPTS):
            content = self.patiently(path, lambda s3: self._get(s3, path))
            digest = bytes_digest(content.data) if content else None
            if content is None or content.sha256 in {None, digest} or content.data in found:
                return content
            found.add(content.data)
        raise self.altered_on_the_way(path)

    def altered_on_the_way(self, path: str) -> EngineryError:
        """The error for an object when each read returns different bytes."""
        problem = f"was altered on its way: each of {READ_ATTEMPTS} reads returned different bytes"
        remedy = "try again; if it continues, look for a proxy or a network that alters bytes"
        return self.error_class(problem, subject=self.where(path), remedy=remedy, transient=True)

    def get_bytes(self, path: str) -> bytes | None:
        """The bytes of a small object, or None when it does not exist."""
        content = self.get(path)
        return content.data if content else None

    def _get(self, s3: "S3Client", path: str) -> Content | None:
        try:
            answer = s3.get_object(Bucket=self.address.bucket, Key=self.address.key(path))
        except botocore_exceptions.ClientError as error:
            if error_code(error) == "NoSuchKey":
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
        """Write a small object. Returns its ETag.

        Args:
            path: the object.
            data: its bytes.
            if_none_match: write only when the object does not exist yet.
            if_match: write only when the object has this ETag.
            content_type: the media type.

        Raises:
            PreconditionFailed: when the condition does not hold. It is not raised when an earlier attempt of this call
                has written the object and only its answer was lost.
        """
        conditions: dict[str, Any] = {"IfNoneMatch": "*"} if if_none_match else {}
        conditions |= {"IfMatch": if_match} if if_match is not None else {}
        attempts = 0

        def put(s3: "S3Client") -> str:
            nonlocal attempts
            attempts += 1
            return self._put(s3, path, data, {**conditions, "ContentType": content_type}, again=attempts > 1)

        return self.patiently(path, put)

    def swap(self, path: str, data: bytes, etag: str | None, *, content_type: str = "application/json") -> str | None:
        """Replace a small object that has this ETag. If `etag` is None, write it only when it does not exist yet.

        Returns its new ETag, or None when nothing was written because another writer was first.
        """
        try:
            return self.put_bytes(path, data, if_none_match=etag is None, if_match=etag, content_type=content_type)
        except PreconditionFailed:
            return None

    def _put(self, s3: "S3Client", path: str, data: bytes, options: dict[str, Any], *, again: bool) -> str:
        options = {**self.digest_options(bytes_digest(data)), **options}
        try:
            answer = s3.put_object(Bucket=self.address.bucket, Key=self.address.key(path), Body=data, **options)
        except botocore_exceptions.ClientError as error:
            if _condition_failed(error, options):
                found = self._get(s3, path)
                if found and found.data == data and (again or error.response["ResponseMetadata"].get("RetryAttempts")):
                    return found.etag
                raise failed_condition(self.where(path)) from error
            raise
        return answer["ETag"]

    def head(self, path: str) -> ObjectInfo | None:
        """Size, ETag and metadata of an object, or None when it does not exist."""
        return self.patiently(path, lambda s3: self._head(s3, path))

    def _head(self, s3: "S3Client", path: str) -> ObjectInfo | None:
        try:
            answer = s3.head_object(Bucket=self.address.bucket, Key=self.address.key(path))
        except botocore_exceptions.ClientError as error:
            if error_code(error) not in UNSAID:
                raise
            # The answer to HEAD has no body: it does not say what is missing or wrong. The answer to GET does.
            if self._get(s3, path) is None:
                return None
            if error_code(error) != "404":
                raise
            answer = s3.head_object(Bucket=self.address.bucket, Key=self.address.key(path))  # it was just written
        metadata = answer["Metadata"]
        size, etag, modified = answer["ContentLength"], answer["ETag"], answer["LastModified"]
        return ObjectInfo(path, size, etag, metadata.get("sha256"), metadata, modified)

    def list(self, path: str = "") -> Iterator[ObjectInfo]:
        """Every object under `path`, sorted by path. `path` is like a directory; empty for the whole prefix."""
        under = self.address.key(path)
        for found, entry in self.entries("list_objects_v2", f"{under}/" if under else "", path):
            yield ObjectInfo(found, entry["Size"], entry["ETag"], modified=entry["LastModified"])

    def entries(self, operation: str, under: str, path: str = "") -> Iterator[tuple[str, Any]]:
        """The entries of a listing whose keys begin with `under`, each with its path. `path` is for messages."""
        what, most = LISTINGS[operation]
        options: dict[str, Any] = {"Bucket": self.address.bucket, most: PAGE, "Prefix": under}
        cut = len(self.address.prefix) + 1 if self.address.prefix else 0
        while True:
            page = self.patiently(path, lambda s3: getattr(s3, operation)(**options))
            for entry in page.get(what, []):
                yield entry["Key"][cut:], entry
            if not page.get("IsTruncated"):  # some servers leave this field out
                return
            options.update({name: page[source] for name, source in NEXT_PAGE.items() if page.get(source)})

    def copy(self, source: str, path: str) -> None:
        """Copy an object, which must exist, to another path. The server copies the bytes."""
        found = self.head(source)
        if found is None:
            raise self.error_class("there is no such object to copy", subject=self.where(source))
        self.copy_from(self, found, path)

    def copy_from(self, origin: "Prefix", source: ObjectInfo, path: str) -> None:
        """Copy an object of another prefix, with its metadata. The server copies the bytes.

        Raises:
            Gone: when `source` was removed or replaced.
            EngineryError: of `error_class`, when the object cannot be copied.
        """
        self.patiently(path, partial(_copy, self, origin, source, path, checksum=True))

    def delete(self, path: str) -> None:
        """Remove an object, if it exists."""
        self.patiently(path, lambda s3: s3.delete_object(Bucket=self.address.bucket, Key=self.address.key(path)))


def _condition_failed(error: "ClientError", options: Mapping[str, Any]) -> bool:
    code = error_code(error)
    return code in FAILED_CONDITION or (code == "NoSuchKey" and "IfMatch" in options)


def _copy(  # noqa: PLR0913  from where to where
    prefix: Prefix, origin: Prefix, source: ObjectInfo, path: str, s3: "S3Client", *, checksum: bool
) -> None:
    options = {"CopySourceIfMatch": source.etag} | (prefix.checksum_kind() if checksum else {})
    try:
        _request_copy(prefix, origin, source, path, s3, options)
    except botocore_exceptions.ClientError as error:
        if checksum and error_code(error) in CHECKSUM_UNKNOWN:
            _copy(prefix, origin, source, path, s3, checksum=False)
        elif error_code(error) in SOURCE_GONE:
            raise Gone("the object to copy is not there any more", subject=origin.where(source.path)) from error
        else:
            raise


def _request_copy(  # noqa: PLR0913, PLR0917  from where to where
    prefix: Prefix, origin: Prefix, source: ObjectInfo, path: str, s3: "S3Client", options: Any
) -> None:
    bucket, key = prefix.address.bucket, prefix.address.key(path)
    place: Any = {"Bucket": origin.address.bucket, "Key": origin.address.key(source.path)}
    if source.size <= LARGEST_SINGLE_COPY:
        s3.copy_object(Bucket=bucket, Key=key, CopySource=place, **options)
    else:
        metadata = {"Metadata": dict(source.metadata), "MetadataDirective": "REPLACE"}
        parts = boto3_s3_transfer.TransferConfig(
            multipart_threshold=COPY_PART_BYTES, multipart_chunksize=COPY_PART_BYTES
        )
        s3.copy(place, bucket, key, ExtraArgs={**metadata, **options}, Config=parts)

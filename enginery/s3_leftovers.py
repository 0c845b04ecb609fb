"""What writers that died leave in S3: multipart uploads never completed, and objects that tried the server."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from enginery.s3 import PROBE, ObjectInfo, Prefix

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True)
class Upload:
    """A multipart upload that was begun and neither completed nor aborted. Its parts are paid for, and in no listing.

    Attributes:
        path: the object it would become, relative to the prefix that was asked.
        upload_id: S3's name for it.
        begun: when, UTC.
    """

    path: str
    upload_id: str
    begun: datetime


def unfinished_uploads(prefix: Prefix, path: str = "") -> Iterator[Upload]:
    """Every multipart upload under way or abandoned under `path`, taken as a directory."""
    under = prefix.address.key(path)
    for entry in _pages(prefix, "list_multipart_uploads", "Uploads", f"{under}/" if under else ""):
        yield Upload(_relative(prefix, entry["Key"]), entry["UploadId"], entry["Initiated"])


def abort_upload(prefix: Prefix, upload: Upload) -> None:
    """Give up an upload and free its parts; one that has ended is fine."""
    from botocore.exceptions import ClientError  # noqa: PLC0415  not needed to make a plan

    address = prefix.address
    names: Any = {"Bucket": address.bucket, "Key": address.key(upload.path), "UploadId": upload.upload_id}
    try:
        prefix.patiently(upload.path, lambda s3: s3.abort_multipart_upload(**names))
    except prefix.error_class as error:
        if not isinstance(error.__cause__, ClientError) or error.__cause__.response["Error"]["Code"] != "NoSuchUpload":
            raise


def probes(prefix: Prefix) -> Iterator[ObjectInfo]:
    """The objects with which the server was tried and that are still there."""
    for entry in _pages(prefix, "list_objects_v2", "Contents", prefix.address.key(PROBE)):
        path = _relative(prefix, entry["Key"])
        yield ObjectInfo(path, entry["Size"], entry["ETag"], modified=entry["LastModified"])


def _pages(prefix: Prefix, operation: str, what: str, under: str) -> Iterator[Any]:
    """The entries of a listing, page by page; a page that does not come is asked for again."""
    options: dict[str, Any] = {"Bucket": prefix.address.bucket, "Prefix": under}
    while True:
        page = prefix.patiently("", partial(_page, operation, options))
        yield from page.get(what, [])
        if not page.get("IsTruncated"):  # not every server says so
            return
        following = {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"}
        following |= {"ContinuationToken": "NextContinuationToken"}
        options |= {name: page[source] for name, source in following.items() if page.get(source)}


def _page(operation: str, options: dict[str, Any], s3: "S3Client") -> dict[str, Any]:
    page: dict[str, Any] = getattr(s3, operation)(**options)
    return page


def _relative(prefix: Prefix, key: str) -> str:
    return key.removeprefix(f"{prefix.address.prefix}/") if prefix.address.prefix else key

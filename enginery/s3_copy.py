"""Copies that the server makes by itself, in parts where the object is too large for one request."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from enginery.s3_errors import FAILED_CONDITION, Gone, answer_code

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from enginery.s3 import ObjectInfo, Prefix

LARGEST_SINGLE_COPY = 5 << 30
COPY_PART_BYTES = 512 << 20
UNKNOWN = {"501", "NotImplemented"}
"""Of a checksum of the whole. It is asked for, since that of an object sent in parts is of the parts, and not every
server says so; Cloudflare's R2 refuses to be asked: https://github.com/cloudflare/cloudflare-docs/issues/4508."""
MISSING = {"404", "NoSuchKey"} | FAILED_CONDITION


def copy_object(prefix: "Prefix", origin: "Prefix", source: "ObjectInfo", path: str) -> None:
    """See `Prefix.copy_found`."""
    prefix.patiently(path, partial(_copy, prefix, origin, source, path))


def _copy(prefix: "Prefix", origin: "Prefix", source: "ObjectInfo", path: str, s3: "S3Client") -> None:
    from botocore.exceptions import ClientError  # noqa: PLC0415

    try:
        _with_checksum(partial(_ask, prefix, origin, source, path, s3))
    except ClientError as error:
        if answer_code(error) in MISSING:
            raise Gone("the object to copy is not there any more", subject=origin.where(source.path)) from error
        raise


def _with_checksum(ask: Callable[..., None]) -> None:
    from botocore.exceptions import ClientError  # noqa: PLC0415

    try:
        ask(ChecksumAlgorithm="SHA256")
    except ClientError as error:
        if answer_code(error) not in UNKNOWN:
            raise
        ask()


def _ask(prefix: "Prefix", origin: "Prefix", source: "ObjectInfo", path: str, s3: "S3Client", **options: Any) -> None:
    bucket, key = prefix.address.bucket, prefix.address.key(path)
    place: Any = {"Bucket": origin.address.bucket, "Key": origin.address.key(source.path)}
    options["CopySourceIfMatch"] = source.etag
    if source.size <= LARGEST_SINGLE_COPY:
        s3.copy_object(Bucket=bucket, Key=key, CopySource=place, **options)
    else:
        notes = {"Metadata": dict(source.metadata), "MetadataDirective": "REPLACE"}
        s3.copy(place, bucket, key, ExtraArgs={**notes, **options}, Config=_parts())


def _parts() -> Any:
    from boto3.s3.transfer import TransferConfig  # noqa: PLC0415  not needed for most copies

    return TransferConfig(multipart_threshold=COPY_PART_BYTES, multipart_chunksize=COPY_PART_BYTES)

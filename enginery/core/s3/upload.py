"""Uploads. Every byte is read once and digested while it is read. The server checks every byte that arrives.

A large file is sent in several parts at the same time, each with its own digest. The parts become an object only if the
digest of the whole file is right. So the object is correct, or it does not exist.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from enginery.core.digests import bytes_digest
from enginery.core.errors import EngineryError
from enginery.core.late import late
from enginery.core.progress import NO_PROGRESS, Progress
from enginery.core.s3.errors import ALTERED, error_code
from enginery.core.s3.objects import Prefix
from enginery.core.s3.small import SMALL_BYTES, put_small
from enginery.core.threads import in_order

if TYPE_CHECKING:
    from botocore import exceptions as botocore_exceptions
    from botocore.exceptions import ClientError
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef
else:
    botocore_exceptions = late("botocore.exceptions")

PART_BYTES = 16 << 20
MOST_PARTS = 10_000
PARTS_AT_ONCE = 4
ATTEMPTS = 3

T = TypeVar("T")


def upload_file(prefix: Prefix, path: str, file: Path, sha256: str, progress: Progress = NO_PROGRESS) -> None:
    """Upload a file. Each request carries the digest of its bytes, which the server checks.

    Args:
        prefix: where the object is.
        path: the object, relative to the prefix.
        file: the file. It is read once.
        sha256: the digest that the file must have. The object's metadata gets it too.
        progress: receives the number of bytes that have arrived.

    Raises:
        EngineryError: of the prefix's class, also when the file has another digest. Then nothing is written.
    """
    if file.stat().st_size <= PART_BYTES:
        _upload_whole(prefix, path, file, sha256)
        progress.add(file.stat().st_size)
        return
    for left in reversed(range(ATTEMPTS)):
        try:
            _Parts(prefix, path, file, progress).send(sha256)
        except _Aborted as error:
            if not left:
                problem, subject = "the upload keeps being aborted", prefix.where(path)
                remedy = "find out what aborts uploads there, such as a rule of the bucket"
                raise prefix.error_class(problem, subject=subject, remedy=remedy) from error
        else:
            return


def _upload_whole(prefix: Prefix, path: str, file: Path, sha256: str) -> None:
    data = file.read_bytes()
    if (found := bytes_digest(data)) != sha256:
        raise _changed(prefix, file, found, sha256)
    if len(data) > SMALL_BYTES or not put_small(prefix, path, data, sha256):
        prefix.patiently(path, partial(_put, prefix, path, data, sha256))


def _put(prefix: Prefix, path: str, data: bytes, sha256: str, s3: "S3Client") -> None:
    try:
        options = prefix.digest_options(sha256)
        s3.put_object(Bucket=prefix.address.bucket, Key=prefix.address.key(path), Body=data, **options)
    except botocore_exceptions.ClientError as error:
        _raise_altered(prefix, path, error)
        raise


def _raise_altered(prefix: Prefix, path: str, error: "ClientError") -> None:
    """Raise a transient error if the network altered the bytes between here and the server. The file is correct."""
    if error_code(error) in ALTERED:
        problem = "was altered on its way to S3"
        raise prefix.error_class(problem, subject=prefix.where(path), remedy="try again", transient=True) from error


def _changed(prefix: Prefix, file: Path, found: str, sha256: str) -> EngineryError:
    problem = f"holds other bytes than were recorded: sha256 is {found}, not {sha256}"
    remedy = "find out what changed it, then run the step that made it again; nothing of it was kept in S3"
    return prefix.error_class(problem, subject=str(file), remedy=remedy)


class _Aborted(Exception):  # noqa: N818  it does not leave this file
    """Another process has aborted the upload, because it seemed abandoned."""


class _Parts:
    """The multipart upload of a large file."""

    def __init__(self, prefix: Prefix, path: str, file: Path, progress: Progress) -> None:
        self.prefix, self.path, self.file, self.progress = prefix, path, file, progress
        self.object: Any = {"Bucket": prefix.address.bucket, "Key": prefix.address.key(path)}
        self.part_bytes = part_bytes(file.stat().st_size)
        self.digest = hashlib.sha256()
        self.sent = 0
        self.lock = threading.Lock()

    def send(self, sha256: str) -> None:
        begun = self._patiently(
            lambda s3: s3.create_multipart_upload(
                **self.object, Metadata={"sha256": sha256}, **self.prefix.checksum_kind()
            )
        )
        upload = {**self.object, "UploadId": begun["UploadId"]}
        try:
            parts = list(in_order(partial(self._send, upload), self._pieces(), threads=PARTS_AT_ONCE))
            self._require(sha256)
            self._patiently(partial(self._complete, upload, parts, sha256))
        except BaseException:
            self.progress.add(-self.sent)
            with suppress(EngineryError):  # a later publish aborts it
                self.prefix.attempt(self.path, lambda s3: s3.abort_multipart_upload(**upload))
            raise

    def _require(self, sha256: str) -> None:
        if (found := self.digest.hexdigest()) != sha256:
            raise _changed(self.prefix, self.file, found, sha256)

    def _patiently(self, call: "Callable[[S3Client], T]") -> "T":
        return self.prefix.patiently(self.path, partial(self._translated, call))

    def _translated(self, call: "Callable[[S3Client], T]", s3: "S3Client") -> "T":
        try:
            return call(s3)
        except botocore_exceptions.ClientError as error:
            if error_code(error) == "NoSuchUpload":
                raise _Aborted from error
            _raise_altered(self.prefix, self.path, error)
            raise

    def _pieces(self) -> Iterator[tuple[int, bytes]]:
        """The parts with their numbers. Reading them also makes the digest of the whole file."""
        with self.file.open("rb") as opened:
            for number in count(1):
                if not (data := opened.read(self.part_bytes)):
                    return
                self.digest.update(data)
                yield number, data

    def _send(self, upload: Any, piece: tuple[int, bytes]) -> "CompletedPartTypeDef":
        number, data = piece
        checksum: Any = self.prefix.checksum_option(bytes_digest(data))
        answer = self._patiently(lambda s3: s3.upload_part(**upload, PartNumber=number, Body=data, **checksum))
        with self.lock:
            self.sent += len(data)
        self.progress.add(len(data))
        part: CompletedPartTypeDef = {"PartNumber": number, "ETag": answer["ETag"]}
        return {**part, **checksum}

    def _complete(self, upload: Any, parts: "list[CompletedPartTypeDef]", sha256: str, s3: "S3Client") -> None:
        """Complete the upload. If it is gone, an earlier request may have completed it and its answer was lost."""
        try:
            s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
        except s3.exceptions.NoSuchUpload:
            found = self.prefix.head(self.path)
            if found is None or (found.sha256, found.size) != (sha256, self.sent):
                raise


def part_bytes(size: int) -> int:
    """The size of a part, large enough that a file of `size` bytes has no more parts than S3 accepts."""
    return max(PART_BYTES, -(-size // MOST_PARTS))


@dataclass(frozen=True)
class UnfinishedUpload:
    """A multipart upload that was not completed or aborted. Its parts cost money, but no listing of objects shows them.

    Attributes:
        path: the object that the upload would make, relative to the prefix.
        upload_id: S3's id of the upload.
        begun: when the upload began, UTC.
    """

    path: str
    upload_id: str
    begun: datetime


def unfinished_uploads(prefix: Prefix, path: str = "") -> Iterator[UnfinishedUpload]:
    """Every multipart upload under `path`, also those whose writer still works."""
    under = prefix.address.key(path)
    for found, entry in prefix.entries("list_multipart_uploads", f"{under}/" if under else ""):
        yield UnfinishedUpload(found, entry["UploadId"], entry["Initiated"])


def abort_upload(prefix: Prefix, upload: UnfinishedUpload) -> None:
    """Abort an upload and free its parts. It is no error if the upload has ended already."""
    address = prefix.address
    names: Any = {"Bucket": address.bucket, "Key": address.key(upload.path), "UploadId": upload.upload_id}
    try:
        prefix.patiently(upload.path, lambda s3: s3.abort_multipart_upload(**names))
    except prefix.error_class as error:
        cause = error.__cause__
        if not isinstance(cause, botocore_exceptions.ClientError) or error_code(cause) != "NoSuchUpload":
            raise

"""Downloads. A file is written completely and checked, or not at all, even if the connection breaks.

A large object is read in several ranges at the same time. If the connection of a range breaks, the range continues from
the byte that it had reached. Bytes are written and digested as they arrive. At the end, the file gets its name.
"""

import hashlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginery.core.digests import CHUNK_BYTES, bytes_digest
from enginery.core.errors import EngineryError
from enginery.core.late import late
from enginery.core.progress import NO_PROGRESS, Progress
from enginery.core.s3.errors import FAILED_CONDITION, error_code, translated_errors
from enginery.core.s3.objects import READ_ATTEMPTS, Prefix
from enginery.core.s3.partial import ContiguousDigest, Part, write_small
from enginery.core.s3.small import SMALL_BYTES, get_small
from enginery.core.threads import in_order, side_by_side

if TYPE_CHECKING:
    from botocore import exceptions as botocore_exceptions
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client
else:
    botocore_exceptions = late("botocore.exceptions")

Take = Callable[[bytes, int], object]
"""A function that is called with bytes and their position in the object."""
Range = tuple[int, int]  # the first byte, and the end

LEAST_RANGE_BYTES = 16 << 20
RANGE_BYTES = 64 << 20
"""The largest range. The ranges of a smaller file are smaller, so that `RANGES_AT_ONCE` of them can be used."""
RANGES_AT_ONCE = 4
RANGES_AT_FIRST = 1
SLOW_SECONDS = 0.5
"""If one connection takes longer than this for a range, another connection is opened."""
RANGE_TOO_FAR = {"416", "InvalidRange"}
DIGESTED_BYTES = 16 << 20
"""The size of a range when an object is only digested. Such ranges are held in memory."""


def download_file(  # noqa: PLR0913  what the bytes must be
    prefix: Prefix,
    path: str,
    destination: Path,
    *,
    size: int,
    sha256: str | None = None,
    etag: str | None = None,
    resume: bool = False,
    progress: Progress = NO_PROGRESS,
) -> str:
    """Write an object to `destination`, completely and checked, or not at all. Returns its SHA-256.

    Args:
        prefix: where the object is.
        path: the object, relative to the prefix.
        destination: the file to write or replace. Missing parent directories are made.
        size: the size that the object must have, in bytes.
        sha256: the digest that the object must have; None to accept any.
        etag: the ETag that the object must have during the whole download; None to accept any.
        resume: if the download of a large object fails or is killed, keep the bytes in a hidden file beside
            `destination`. The next download continues it. This needs `sha256`, and one download at a time.
        progress: receives the number of digested bytes.

    Raises:
        EngineryError: of the prefix's class, also when the object is missing or differs from what it must be.
    """
    reader = _ObjectReader(prefix, path, size, etag)
    if sha256 is not None and (small := _read_small(reader, sha256)) is not None:
        _write_small(reader, destination, small)
        progress.add(size)
        return sha256
    with translated_errors(destination, prefix.error_class):
        destination.parent.mkdir(parents=True, exist_ok=True)
        return _download_large(reader, destination, sha256 if resume else None, sha256, progress)


def _write_small(reader: "_ObjectReader", destination: Path, data: bytes) -> None:
    try:
        write_small(destination, data)
    except OSError:  # only now, as `translated_errors` costs time for each of thousands of small files
        with translated_errors(destination, reader.prefix.error_class):
            raise


def _download_large(
    reader: "_ObjectReader", destination: Path, resume: str | None, sha256: str | None, progress: Progress
) -> str:
    ranges = _ranges(reader.size, min(RANGE_BYTES, max(LEAST_RANGE_BYTES, -(-reader.size // RANGES_AT_ONCE))))
    part = Part(destination, reader.size, len(ranges), resume)
    try:
        found = _fill(reader, ranges, part, sha256, progress)
        part.finish()
        part.path.replace(destination)
    finally:
        part.close()
    return found


def digest_object(prefix: Prefix, path: str, *, size: int, expected: str | None = None) -> str:
    """Read an object of `size` bytes and return its SHA-256. The bytes are not kept.

    A network can alter bytes. So if the digest is not `expected`, the object is read again, until a digest occurs
    twice. If `expected` is None, the object is read once.

    Raises:
        EngineryError: of the prefix's class, also when the object is missing or has another size. It is transient when
            each read gave another digest.
    """
    reader = _ObjectReader(prefix, path, size, None)
    found: set[str] = set()
    for _ in range(READ_ATTEMPTS):
        digest = _digest_once(reader)
        if expected in {None, digest} or digest in found:
            return digest
        found.add(digest)
    raise reader.prefix.altered_on_the_way(reader.path)


def _digest_once(reader: "_ObjectReader") -> str:
    def read(bounds: Range) -> bytearray:
        data = bytearray()

        def take(chunk: bytes, position: int) -> None:
            data[position - bounds[0] :] = chunk  # replaces bytes that arrived before a failure

        reader.read_range(bounds, take)
        return data

    hashed = hashlib.sha256()
    for data in in_order(read, _ranges(reader.size, DIGESTED_BYTES), threads=RANGES_AT_ONCE):
        hashed.update(data)
    return hashed.hexdigest()


def _read_small(reader: "_ObjectReader", sha256: str) -> bytes | None:
    """A small object with this digest, or None if the fast client cannot get it. Then `_download_large` retries."""
    if reader.size > SMALL_BYTES:
        return None
    data = get_small(reader.prefix, reader.path, reader.etag)
    return data if data is not None and len(data) == reader.size and bytes_digest(data) == sha256 else None


def _ranges(size: int, longest: int) -> list[Range]:
    """The ranges of an object. An empty object has one empty range, so that it is requested too."""
    return [(start, min(start + longest, size)) for start in range(0, size, longest)] or [(0, 0)]


def _fill(reader: "_ObjectReader", ranges: list[Range], part: Part, sha256: str | None, progress: Progress) -> str:
    def fill(index: int) -> None:
        reader.read_range(ranges[index], partial(take, index))
        part.mark_complete(index, *ranges[index])

    def take(index: int, chunk: bytes, position: int) -> None:
        part.write(chunk, position)
        digest.arrived(index, chunk, position)

    seen: set[str] = set()
    for _ in range(READ_ATTEMPTS):
        missing = part.missing()
        digest = ContiguousDigest(ranges, set(range(len(ranges))) - set(missing), part.read, progress)
        side_by_side(fill, missing, threads=RANGES_AT_ONCE, at_first=RANGES_AT_FIRST, slow=SLOW_SECONDS)
        found = digest.hexdigest()
        if sha256 in {None, found}:
            return found
        part.restart()
        progress.add(-reader.size)
        if found in seen:  # the same bytes twice: the server really holds these bytes
            raise reader.mismatch(f"holds other bytes than were recorded: sha256 is {found}, not {sha256}")
        seen.add(found)
    raise reader.prefix.altered_on_the_way(reader.path)


@dataclass(frozen=True)
class _ObjectReader:
    """Reads an object. The object must have `size` bytes and, if `etag` is given, this ETag until the end."""

    prefix: Prefix
    path: str
    size: int
    etag: str | None

    def read_range(self, bounds: Range, take: Take) -> None:
        """Pass all bytes of a range to `take`, in order."""
        position, end = bounds
        while True:
            position = self.prefix.patiently(self.path, partial(self.read_some, take, position, end))
            if position >= end:
                return

    def read_some(self, take: Take, start: int, end: int, s3: "S3Client") -> int:
        """Read until the end of the range or until the connection breaks. Returns the position that was reached.

        A failure before the first byte is raised, and so is a wrong checksum. Other failures only end this request.
        """
        position = start
        try:
            with closing(self.open(s3, start, end)) as body:
                for chunk in body.iter_chunks(CHUNK_BYTES):
                    take(chunk, position)
                    position += len(chunk)
                if position == start < end:
                    raise botocore_exceptions.IncompleteReadError(actual_bytes=0, expected_bytes=end - start)
        except botocore_exceptions.BotoCoreError as error:
            if position == start or isinstance(error, botocore_exceptions.FlexibleChecksumError):
                raise
        return position

    def open(self, s3: "S3Client", start: int, end: int) -> "StreamingBody":
        whole = start == 0 and end == self.size
        options: Any = {} if whole else {"Range": f"bytes={start}-{end - 1}"}
        options |= {"IfMatch": self.etag} if self.etag else {}
        address = self.prefix.address
        try:
            answer = s3.get_object(Bucket=address.bucket, Key=address.key(self.path), **options)
        except botocore_exceptions.ClientError as error:
            if error_code(error) == "NoSuchKey":
                raise self.missing() from error
            if error_code(error) in FAILED_CONDITION:
                raise self.mismatch("was changed since it was looked up") from error
            if error_code(error) in RANGE_TOO_FAR:
                raise self.mismatch("is shorter than was recorded") from error
            raise
        total = str(answer["ContentLength"]) if whole else answer.get("ContentRange", "").rpartition("/")[2]
        if total != str(self.size):
            answer["Body"].close()
            problem = f"has {total} bytes, not the {self.size} that were recorded"
            raise self.mismatch(problem) if total else self.range_ignored()
        return answer["Body"]

    def range_ignored(self) -> EngineryError:
        subject = self.prefix.where(self.path)
        problem = "the server was asked for a part of it, and answered with something else"
        return self.prefix.error_class(problem, subject=subject, remedy="use a server that answers Range requests")

    def missing(self) -> EngineryError:
        subject = self.prefix.where(self.path)
        return self.prefix.error_class("is not there", subject=subject, remedy="check the address, or make it again")

    def mismatch(self, problem: str) -> EngineryError:
        remedy = "remove it and make it again; nothing of it was kept here"
        return self.prefix.error_class(problem, subject=self.prefix.where(self.path), remedy=remedy)

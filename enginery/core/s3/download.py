"""Downloads that survive a server that goes away in the middle; a file is written complete and checked, or not at all.

A large object is read in ranges side by side, each written as it arrives. A range that breaks off is continued from the
byte it had reached. Everything is digested while it arrives, and the file gets its name last.
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
from enginery.core.s3.errors import FAILED_CONDITION, answer_code, translated_errors
from enginery.core.s3.objects import READINGS, Prefix
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
"""Takes bytes, and where in the object they belong."""
Range = tuple[int, int]

LEAST_RANGE_BYTES = 16 << 20
RANGE_BYTES = 64 << 20
"""The largest range; a request costs as much as a few MB. A smaller file has as many ranges as can come at once."""
RANGES_AT_ONCE = 4
RANGES_AT_FIRST = 1
SLOW_SECONDS = 0.5
"""One connection is the cheapest where it brings a range in that time; where it does not, more are opened."""
DIGESTED_BYTES = 16 << 20
"""The range of an object that is only digested: its ranges are held in memory."""


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
    """Write an object to `destination`, whole and checked or not at all, and return its SHA-256.

    Args:
        prefix: where the object is.
        path: the object, relative to the prefix.
        destination: a file that is replaced when there is one; missing parent directories are made.
        size: the bytes it must have.
        sha256: the digest it must have; None to accept any.
        etag: the object it must be, from its first byte to its last; None to accept any.
        resume: when the download of a large object fails or is killed, keep what has arrived in a hidden file beside
            `destination`, and continue there next time. Needs `sha256`; only one download at a time may do so.
        progress: is given the bytes that are digested.

    Raises:
        EngineryError: of the prefix's class, also when the object is missing or is not the right one.
    """
    work = _Reading(prefix, path, size, etag)
    if sha256 is not None and (small := _read_small(work, sha256)) is not None:
        _keep_small(work, destination, small)
        progress.add(size)
        return sha256
    with translated_errors(destination, prefix.error_class):
        destination.parent.mkdir(parents=True, exist_ok=True)
        return _download_large(work, destination, sha256 if resume else None, sha256, progress)


def _keep_small(work: "_Reading", destination: Path, data: bytes) -> None:
    try:
        write_small(destination, data)
    except OSError:  # translated only then: there are thousands of small files
        with translated_errors(destination, work.prefix.error_class):
            raise


def _download_large(
    work: "_Reading", destination: Path, resume: str | None, sha256: str | None, progress: Progress
) -> str:
    ranges = _ranges(work.size, min(RANGE_BYTES, max(LEAST_RANGE_BYTES, -(-work.size // RANGES_AT_ONCE))))
    part = Part(destination, work.size, len(ranges), resume)
    try:
        found = _fill(work, ranges, part, sha256, progress)
        part.finish()
        part.path.replace(destination)
    finally:
        part.close()
    return found


def digest_object(prefix: Prefix, path: str, *, size: int, expected: str | None = None) -> str:
    """Read an object of `size` bytes to its end, keep nothing of it, and return its SHA-256.

    A network can alter bytes too. So another digest than `expected` is only believed when it was read twice; without an
    expected one, the first is.

    Raises:
        EngineryError: of the prefix's class, also when the object is missing or has another size; transient when each
            reading had another digest.
    """
    work = _Reading(prefix, path, size, None)
    found: set[str] = set()
    for _ in range(READINGS):
        digest = _digest_once(work)
        if expected in {None, digest} or digest in found:
            return digest
        found.add(digest)
    raise work.prefix.altered_on_the_way(work.path)


def _digest_once(work: "_Reading") -> str:
    def piece(bounds: Range) -> bytearray:
        data = bytearray()

        def take(chunk: bytes, position: int) -> None:
            data[position - bounds[0] :] = chunk  # in place of what came before a failure

        work.read_range(bounds, take)
        return data

    hashed = hashlib.sha256()
    for data in in_order(piece, _ranges(work.size, DIGESTED_BYTES), threads=RANGES_AT_ONCE):
        hashed.update(data)
    return hashed.hexdigest()


def _read_small(work: "_Reading", sha256: str) -> bytes | None:
    """A small object with this digest; None when only the patient way can get it."""
    if work.size > SMALL_BYTES:
        return None
    data = get_small(work.prefix, work.path, work.etag)
    return data if data is not None and len(data) == work.size and bytes_digest(data) == sha256 else None


def _ranges(size: int, longest: int) -> list[Range]:
    """First byte and end of each range; an empty object has one empty range, so that it is requested too."""
    return [(start, min(start + longest, size)) for start in range(0, size, longest)] or [(0, 0)]


def _fill(work: "_Reading", ranges: list[Range], part: Part, sha256: str | None, progress: Progress) -> str:
    def fill(index: int) -> None:
        work.read_range(ranges[index], partial(take, index))
        part.note(index, *ranges[index])

    def take(index: int, chunk: bytes, position: int) -> None:
        part.write(chunk, position)
        digest.arrived(index, chunk, position)

    seen: set[str] = set()
    for _ in range(READINGS):
        missing = part.missing()
        digest = ContiguousDigest(ranges, set(range(len(ranges))) - set(missing), part.read, progress)
        side_by_side(fill, missing, threads=RANGES_AT_ONCE, at_first=RANGES_AT_FIRST, slow=SLOW_SECONDS)
        found = digest.hexdigest()
        if sha256 in {None, found}:
            return found
        part.restart()
        progress.add(-work.size)
        if found in seen:  # the same bytes twice: so they are what the server holds
            raise work.unlike(f"holds other bytes than were recorded: sha256 is {found}, not {sha256}")
        seen.add(found)
    raise work.prefix.altered_on_the_way(work.path)


@dataclass(frozen=True)
class _Reading:
    """An object that is read; it must have `size` bytes and, if given, this ETag until the end."""

    prefix: Prefix
    path: str
    size: int
    etag: str | None

    def read_range(self, bounds: Range, take: Take) -> None:
        """Give all bytes of a range to `take`, in their order."""
        position, end = bounds
        while True:
            position = self.prefix.patiently(self.path, partial(self.read_some, take, position, end))
            if position >= end:
                return

    def read_some(self, take: Take, start: int, end: int, s3: "S3Client") -> int:
        """Read as far as the connection lasts, and return the position that was reached.

        A failure before the first byte is raised, as is that of a checksum; another one only ends this request.
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
            if answer_code(error) == "NoSuchKey":
                raise self.missing() from error
            if answer_code(error) in FAILED_CONDITION:
                raise self.unlike("was changed since it was looked up") from error
            if answer_code(error) == "InvalidRange":
                raise self.unlike("is shorter than was recorded") from error
            raise
        total = str(answer["ContentLength"]) if whole else answer.get("ContentRange", "").rpartition("/")[2]
        if total != str(self.size):
            answer["Body"].close()
            raise self.unlike(f"has {total} bytes, not the {self.size} that were recorded") if total else self.no_part()
        return answer["Body"]

    def no_part(self) -> EngineryError:
        subject = self.prefix.where(self.path)
        problem = "the server was asked for a part of it, and did not answer with one"
        return self.prefix.error_class(problem, subject=subject, remedy="use a server that answers Range requests")

    def missing(self) -> EngineryError:
        subject = self.prefix.where(self.path)
        return self.prefix.error_class("is not there", subject=subject, remedy="check the address, or make it again")

    def unlike(self, problem: str) -> EngineryError:
        remedy = "remove it and make it again; nothing of it was kept here"
        return self.prefix.error_class(problem, subject=self.prefix.where(self.path), remedy=remedy)

"""Downloads that survive a server that goes away in the middle, and that are what they should be or not there.

A large object is read in ranges side by side. A range that breaks off goes on from the byte it had reached. The whole
is digested before it gets its name.
"""

import os
import tempfile
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginery.digests import CHUNK_BYTES, file_digest
from enginery.errors import EngineryError
from enginery.parallel import side_by_side
from enginery.s3_errors import FAILED_CONDITION, answer_code, translated_errors

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

    from enginery.s3 import Prefix

RANGE_BYTES = 64 << 20
ATTEMPTS = 3


def download(  # noqa: PLR0913  what the bytes must be
    prefix: "Prefix", path: str, destination: Path, *, size: int, sha256: str | None, etag: str | None
) -> str:
    """See `Prefix.download`."""
    with translated_errors(destination, prefix.error_class):
        destination.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".download-", dir=destination.parent)
    part = Path(name)
    try:
        digest = _fill(_Download(prefix, path, size, etag, descriptor), part, sha256)
        part.replace(destination)
    finally:
        os.close(descriptor)
        with suppress(FileNotFoundError):
            part.unlink()
    return digest


def _fill(work: "_Download", part: Path, sha256: str | None) -> str:
    for _ in range(ATTEMPTS):
        work.read_all()
        digest = file_digest(part)
        if sha256 in {None, digest}:
            return digest
    raise work.unlike(f"holds other bytes than were recorded: sha256 is {digest}, not {sha256}")


@dataclass(frozen=True)
class _Download:
    """An object on its way into the open file `descriptor`."""

    prefix: "Prefix"
    path: str
    size: int
    etag: str | None
    descriptor: int

    def read_all(self) -> None:
        ranges = [(start, min(start + RANGE_BYTES, self.size)) for start in range(0, self.size, RANGE_BYTES)]
        side_by_side(lambda bounds: self.read_range(*bounds), ranges or [(0, 0)])

    def read_range(self, position: int, end: int) -> None:
        while True:
            position = self.prefix.patiently(self.path, partial(self.read_some, position, end))
            if position >= end:
                return

    def read_some(self, start: int, end: int, s3: "S3Client") -> int:
        """Read from `start` as far as the connection lasts; return the position reached.

        A failure before the first byte is raised; one after it only ends this request.
        """
        from botocore.exceptions import BotoCoreError, IncompleteReadError  # noqa: PLC0415

        position = start
        try:
            with closing(self.open(s3, start, end)) as body:
                for chunk in body.iter_chunks(CHUNK_BYTES):
                    position += _write(self.descriptor, chunk, position)
                if position == start < end:
                    raise IncompleteReadError(actual_bytes=0, expected_bytes=end - start)
        except BotoCoreError:
            if position == start:
                raise
        return position

    def open(self, s3: "S3Client", start: int, end: int) -> "StreamingBody":
        from botocore.exceptions import ClientError  # noqa: PLC0415

        whole = start == 0 and end == self.size
        options: Any = {} if whole else {"Range": f"bytes={start}-{end - 1}"}
        options |= {"IfMatch": self.etag} if self.etag else {}
        address = self.prefix.address
        try:
            answer = s3.get_object(Bucket=address.bucket, Key=address.key(self.path), **options)
        except ClientError as error:
            if answer_code(error) == "NoSuchKey":
                raise self.missing() from error
            if answer_code(error) in FAILED_CONDITION:
                raise self.unlike("was changed since it was looked up") from error
            if answer_code(error) == "InvalidRange":
                raise self.unlike("is shorter than was recorded") from error
            raise
        total = answer["ContentLength"] if whole else int(answer["ContentRange"].rpartition("/")[2])
        if total != self.size:
            answer["Body"].close()
            raise self.unlike(f"has {total} bytes, not the {self.size} that were recorded")
        return answer["Body"]

    def missing(self) -> EngineryError:
        subject = self.prefix.where(self.path)
        return self.prefix.error_class("is not there", subject=subject, remedy="check the address, or make it again")

    def unlike(self, problem: str) -> EngineryError:
        remedy = "remove it and make it again; nothing of it was kept here"
        return self.prefix.error_class(problem, subject=self.prefix.where(self.path), remedy=remedy)


def _write(descriptor: int, data: bytes, position: int) -> int:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, memoryview(data)[done:], position + done)
    return done

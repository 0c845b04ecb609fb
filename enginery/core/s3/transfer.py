"""Many files to and from S3 at once, each written complete and checked, or not at all."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from enginery.core.progress import Progress
from enginery.core.s3.download import download_file
from enginery.core.s3.objects import Prefix
from enginery.core.s3.small import SMALL_BYTES
from enginery.core.s3.upload import upload_file
from enginery.core.threads import side_by_side

SMALL_AT_ONCE = 32
SMALL_AT_FIRST = 4
SLOW_SECONDS = 0.01
"""A small file that takes longer is waiting for the network, so that more of them can wait at once."""
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
LARGE_AT_ONCE = max(4, min(8, CORES // 2))
"""Each goes in several parts at once; the parts of an upload are held in memory, 80 MB for each file."""


@dataclass(frozen=True)
class Download:
    """A file to download.

    Attributes:
        path: the object, relative to the prefix.
        destination: where it goes; missing directories are made.
        size: the bytes it must have.
        sha256: the digest it must have, 64 hex digits.
        resume: as in `download_file`.
    """

    path: str
    destination: Path
    size: int
    sha256: str
    resume: bool = False


@dataclass(frozen=True)
class Upload:
    """A file to upload.

    Attributes:
        source: the file; read once.
        path: the object, relative to the prefix.
        size: the bytes it has.
        sha256: the digest it must have, 64 hex digits.
    """

    source: Path
    path: str
    size: int
    sha256: str


F = TypeVar("F", Download, Upload)


def download_all(prefix: Prefix, downloads: Sequence[Download], progress: Progress) -> None:
    """Download every file, side by side; after a failure, those that are complete stay.

    Raises:
        EngineryError: of the prefix's class, when a file is missing, is not the right one, or does not fit on the disk.
    """
    settled = prefix.settled()

    def bring(file: Download) -> None:
        checks: Any = {"size": file.size, "sha256": file.sha256, "resume": file.resume}
        download_file(settled, file.path, file.destination, **checks, progress=progress)
        progress.end_file()

    _many(bring, downloads)


def upload_all(prefix: Prefix, uploads: Sequence[Upload], progress: Progress) -> None:
    """Upload every file, side by side; after a failure, those that are complete stay.

    Raises:
        EngineryError: of the prefix's class, when a file has another digest, or S3 refuses it.
    """
    settled = prefix.settled()

    def send(file: Upload) -> None:
        upload_file(settled, file.path, file.source, file.sha256, progress)
        progress.end_file()

    _many(send, uploads)


def _many(call: Callable[[F], object], files: Sequence[F]) -> None:
    """`call` of each file, the large ones first and few at once, then the small ones, many at once."""
    large = sorted((file for file in files if file.size > SMALL_BYTES), key=lambda file: -file.size)
    side_by_side(call, large, threads=LARGE_AT_ONCE)
    small = [file for file in files if file.size <= SMALL_BYTES]
    side_by_side(call, small, threads=SMALL_AT_ONCE, at_first=SMALL_AT_FIRST, slow=SLOW_SECONDS)

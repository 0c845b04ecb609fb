"""Transfers many files to and from S3 at the same time. Each is written completely and checked, or not at all."""

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
"""If a small file takes longer, it waits for the network. Then more files are transferred at the same time."""
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
LARGE_AT_ONCE = max(4, min(8, CORES // 2))
"""Each large file has several parts in transfer. The parts of an upload are in memory, 80 MB for each file."""


@dataclass(frozen=True)
class Download:
    """A file to download.

    Attributes:
        path: the object, relative to the prefix.
        destination: the file to write. Missing directories are made.
        size: the size that the object must have, in bytes.
        sha256: the digest that the object must have, 64 hex digits.
        resume: whether a later download may continue this one, as in `download_file`.
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
        source: the file. It is read once.
        path: the object, relative to the prefix.
        size: bytes.
        sha256: the digest that the file must have, 64 hex digits.
    """

    source: Path
    path: str
    size: int
    sha256: str


F = TypeVar("F", Download, Upload)


def download_all(prefix: Prefix, downloads: Sequence[Download], progress: Progress) -> None:
    """Download many files at the same time. After a failure, the files that are complete stay.

    Raises:
        EngineryError: of the prefix's class, when a file is missing, differs, or does not fit on the disk.
    """
    connected = prefix.with_kept_connection()

    def download(file: Download) -> None:
        checks: Any = {"size": file.size, "sha256": file.sha256, "resume": file.resume}
        download_file(connected, file.path, file.destination, **checks, progress=progress)
        progress.end_file()

    _many(download, downloads)


def upload_all(prefix: Prefix, uploads: Sequence[Upload], progress: Progress) -> None:
    """Upload many files at the same time. After a failure, the files that are complete stay.

    Raises:
        EngineryError: of the prefix's class, when a file has another digest, or S3 refuses it.
    """
    connected = prefix.with_kept_connection()

    def upload(file: Upload) -> None:
        upload_file(connected, file.path, file.source, file.sha256, progress)
        progress.end_file()

    _many(upload, uploads)


def _many(call: Callable[[F], object], files: Sequence[F]) -> None:
    """Call `call` with each file: first the large files, a few at a time, then the small files, many at a time."""
    large = sorted((file for file in files if file.size > SMALL_BYTES), key=lambda file: -file.size)
    side_by_side(call, large, threads=LARGE_AT_ONCE)
    small = [file for file in files if file.size <= SMALL_BYTES]
    side_by_side(call, small, threads=SMALL_AT_ONCE, at_first=SMALL_AT_FIRST, slow=SLOW_SECONDS)

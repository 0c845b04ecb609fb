"""Many files to and from S3 at once, each whole and checked or not there at all."""

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
"""For a small file: longer than that it is the network that is waited for, and more of them can wait at once."""
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
LARGE_AT_ONCE = max(4, min(8, CORES // 2))
"""Each is sent and brought in several parts at once; those that are sent are held in memory, 80 MB for each file."""


@dataclass(frozen=True)
class Download:
    """A file to bring.

    Attributes:
        path: the object, relative to the prefix.
        destination: where it goes; missing directories are made.
        size: the bytes it must have.
        sha256: the digest it must have, 64 hex digits.
        resume: as in `Prefix.download`.
    """

    path: str
    destination: Path
    size: int
    sha256: str
    resume: bool = False


@dataclass(frozen=True)
class Upload:
    """A file to send.

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
    """Bring every file, side by side; what has been brought when one fails stays.

    Raises:
        EngineryError: of the prefix's class, when a file is missing, stays another than it should be, or has no room.
    """
    settled = prefix.settled()

    def bring(file: Download) -> None:
        checks: Any = {"size": file.size, "sha256": file.sha256, "resume": file.resume}
        download_file(settled, file.path, file.destination, **checks, told=progress.add)
        progress.end_file()

    many(bring, downloads)


def upload_all(prefix: Prefix, uploads: Sequence[Upload], progress: Progress) -> None:
    """Send every file, side by side; what has been sent when one fails stays.

    Raises:
        EngineryError: of the prefix's class, when a file is another than it should be, or S3 does not take it.
    """
    settled = prefix.settled()

    def send(file: Upload) -> None:
        upload_file(settled, file.path, file.source, file.sha256, told=progress.add)
        progress.end_file()

    many(send, uploads)


def many(call: Callable[[F], object], files: Sequence[F]) -> None:
    """`call` of each file, the large ones first and few at once, then the small ones, many at once."""
    large = sorted((file for file in files if file.size > SMALL_BYTES), key=lambda file: -file.size)
    side_by_side(call, large, threads=LARGE_AT_ONCE)
    small = [file for file in files if file.size <= SMALL_BYTES]
    side_by_side(call, small, threads=SMALL_AT_ONCE, at_first=SMALL_AT_FIRST, slow=SLOW_SECONDS)

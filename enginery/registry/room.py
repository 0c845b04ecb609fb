"""Whether a disk has room for what is to be downloaded, asked before it begins."""

import shutil
from pathlib import Path

from enginery.errors import RegistryError
from enginery.units import human_bytes

BLOCK = 512
"""The unit of `st_blocks`."""


def require_room(directory: Path, size: int, *, there: Path) -> None:
    """Make sure that `size` bytes fit in, where parts of them may be `there` already.

    Raises:
        RegistryError: when they do not.
    """
    parts = sum(path.stat().st_blocks * BLOCK for path in there.rglob("*") if path.is_file())
    free = shutil.disk_usage(directory).free
    if size > free + parts:
        problem = f"{human_bytes(size - parts)} are to be fetched, but the disk has {human_bytes(free)} free"
        raise RegistryError(problem, subject=str(directory), remedy="free some space there, or name another directory")

"""Checks a weights file against its own header: cheap, and it finds truncated files and Git LFS pointers."""

import json
from pathlib import Path

LENGTH_BYTES = 8
LARGEST_HEADER = 100_000_000
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def is_lfs_pointer(path: Path) -> bool:
    """Whether the file is the small text that Git LFS puts in the place of a large one."""
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def safetensors_problem(path: Path) -> str | None:
    """What is wrong with a safetensors file, by its header and size; None when they agree. No weights are read."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if not 0 < length <= min(LARGEST_HEADER, size):
            return "it does not begin with a safetensors header"
        header = file.read(length)
    try:
        ends = [tensor["data_offsets"][1] for name, tensor in json.loads(header).items() if name != "__metadata__"]
        expected = LENGTH_BYTES + length + max(ends, default=0)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError):
        return "its safetensors header cannot be read"
    return None if size == expected else f"it is {size} bytes, its header says {expected}"

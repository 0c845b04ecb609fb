"""The files that `registry.py` publishes and pulls, and their places in the bucket."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from enginery.store import digest_output

ACCESS = "benchmark"
BUCKET = "bench"
RECORDS = "records.json"
"""The suffix of the file beside the directory that has the step's record of the files, as every build has one."""
SUMS = "sha256"
"""The suffix of the file beside the directory that has the digests for `sha256sum --check`."""
CHUNK = 1 << 20


@dataclass(frozen=True)
class Files:
    """`count` files of `size` bytes each."""

    name: str
    count: int
    size: int

    def __str__(self) -> str:
        size = f"{self.size >> 20} MiB" if self.size >= CHUNK else f"{self.size >> 10} KiB"
        return f"{self.count:,} files of {size}"


LARGE = Files("large", 8, 256 << 20)
SMALL = Files("small", 2000, 16 << 10)


def remote(tool: str, files: Files, number: int) -> str:
    """The path in the bucket where a tool puts its files in one round."""
    return f"{tool}-{files.name}-{number}"


def address(path: str) -> str:
    """The `s3://` address of a path in the bucket."""
    return f"s3://{BUCKET}/{path}"


def write_files(directory: Path, files: Files) -> None:
    """Write files of random bytes, a hundred in each directory, and beside `directory` their records and digests."""
    for number in range(files.count):
        path = directory / f"{number // 100:02d}" / f"{number:04d}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as opened:
            for start in range(0, files.size, CHUNK):
                opened.write(os.urandom(min(CHUNK, files.size - start)))
    found = digest_output(directory)
    records = json.dumps([record.model_dump() for record in found])
    directory.with_suffix(f".{RECORDS}").write_text(records, encoding="utf-8")
    sums = "".join(f"{record.sha256}  {record.path}\n" for record in found)
    directory.with_suffix(f".{SUMS}").write_text(sums, encoding="utf-8")

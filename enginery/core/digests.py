"""SHA-256 digests: of canonical JSON, of bytes, of files, and of large files that are remembered while unchanged."""

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from enginery.core.errors import StoreError
from enginery.core.home import home

CHUNK_BYTES = 1 << 20
SETTLED_SECONDS = 2.0
"""A file changed more recently than this may change again within the same mtime: it is not remembered."""
ATTEMPTS = 3
SMALL_FILE_BYTES = 4 << 20
"""To digest a file up to this size is faster than to look its digest up."""
MEMORY = "digests.sqlite"


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no white space, UTF-8: equal values give equal bytes.

    Raises:
        ValueError: for NaN and infinities, which JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def json_digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`, 64 hex digits."""
    return bytes_digest(canonical_json(value))


def bytes_digest(data: bytes) -> str:
    """SHA-256 of `data`, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_blob_name(path: Path) -> str:
    """The Git blob id of a file's content, 40 hex digits: the only digest that the Hub has of small files."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def quick_digest(path: Path, *, memory: Path | None = None) -> str:
    """SHA-256 of a file, the fastest way: a small file is read, the digest of a large one is remembered."""
    if path.stat().st_size <= SMALL_FILE_BYTES:
        return file_digest(path)
    return remembered_digest(path, memory=memory)


def remembered_digest(path: Path, *, memory: Path | None = None) -> str:
    """SHA-256 of a file that stays where it is, such as local weights: the file is read once.

    Digests are remembered by device, inode, size and mtime in a database, by default the one in Enginery's home. So a
    file that was changed is read again. Any number of processes may do this at once.

    Raises:
        FileNotFoundError: when there is no such file.
        StoreError: when the file keeps changing while it is read, or when nothing can be remembered.
    """
    database = memory or home() / MEMORY
    found = path.stat()
    query = "SELECT sha256 FROM digests WHERE device = ? AND inode = ? AND size = ? AND mtime_ns = ?"
    with _memory(database) as known_digests:
        known = known_digests.execute(query, _identity(found)).fetchone()
    if known:
        return str(known[0])
    digest, status = _settled_digest(path)
    if time.time() - status.st_mtime > SETTLED_SECONDS:
        with _memory(database) as known_digests:
            _remember(known_digests, status, digest)
    return digest


def remember_digest(path: Path, sha256: str, *, memory: Path | None = None) -> None:
    """Remember a digest that was taken while the file was written, by its only writer, for `quick_digest`.

    Raises:
        StoreError: when nothing can be remembered.
    """
    status = path.stat()
    if status.st_size > SMALL_FILE_BYTES:
        with _memory(memory or home() / MEMORY) as known_digests:
            _remember(known_digests, status, sha256)


def _settled_digest(path: Path) -> tuple[str, os.stat_result]:
    for _ in range(ATTEMPTS):
        before = path.stat()
        digest = file_digest(path)
        after = path.stat()
        if _identity(before) == _identity(after):
            return digest, after
    remedy = "wait until nothing writes to it, then run it again"
    raise StoreError("changes while it is read", subject=str(path), remedy=remedy, transient=True)


def _identity(status: os.stat_result) -> tuple[str, str, int, int]:
    # As text: device and inode numbers may be larger than the integers of SQLite.
    return str(status.st_dev), str(status.st_ino), status.st_size, status.st_mtime_ns


@contextmanager
def _memory(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as memory:
            memory.execute(
                "CREATE TABLE IF NOT EXISTS digests (device TEXT, inode TEXT, size INTEGER, mtime_ns INTEGER,"
                " sha256 TEXT, PRIMARY KEY (device, inode)) WITHOUT ROWID"
            )
            yield memory
    except (sqlite3.Error, OSError) as error:
        remedy = "remove it (it only saves time), and check that the directory can be written"
        raise StoreError(f"cannot be used: {error}", subject=str(path), remedy=remedy) from error


def _remember(memory: sqlite3.Connection, status: os.stat_result, digest: str) -> None:
    memory.execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?)", (*_identity(status), digest))

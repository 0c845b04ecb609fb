"""SHA-256 digests of canonical JSON, bytes and files. The digests of large files are remembered in a database."""

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
"""A file that was changed less than this ago may change again with the same mtime. Its digest is not remembered."""
ATTEMPTS = 3
SMALL_FILE_BYTES = 4 << 20
"""Up to this size, digesting the file is faster than a query of the database."""
DIGESTS_FILE = "digests.sqlite"


def canonical_json(value: Any) -> bytes:
    """JSON in UTF-8 with sorted keys and no white space: equal values give equal bytes.

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
    """The Git blob id of a file's content, 40 hex digits. It is the only digest that the Hub has for small files."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def quick_digest(path: Path, *, database: Path | None = None) -> str:
    """SHA-256 of a file. A small file is read each time; the digest of a large file is remembered."""
    if path.stat().st_size <= SMALL_FILE_BYTES:
        return file_digest(path)
    return remembered_digest(path, database=database)


def remembered_digest(path: Path, *, database: Path | None = None) -> str:
    """SHA-256 of a file that stays in its place, such as local weights. It is read once, and again after a change.

    A database holds the digests by device, inode, size and mtime. The default is the database in Enginery's home. Any
    number of processes may use it at the same time.

    Raises:
        FileNotFoundError: when there is no such file.
        StoreError: when the file keeps changing while it is read, or when the database cannot be used.
    """
    found = path.stat()
    query = "SELECT sha256 FROM digests WHERE device = ? AND inode = ? AND size = ? AND mtime_ns = ?"
    with _connect(database) as connection:
        known = connection.execute(query, _identity(found)).fetchone()
    if known:
        return str(known[0])
    digest, status = _settled_digest(path)
    if time.time() - status.st_mtime > SETTLED_SECONDS:
        with _connect(database) as connection:
            _remember(connection, status, digest)
    return digest


def remember_digest(path: Path, sha256: str, *, database: Path | None = None) -> None:
    """Remember a digest for `quick_digest`. The caller is the file's only writer and digested it while writing.

    Raises:
        StoreError: when the database cannot be used.
    """
    status = path.stat()
    if status.st_size > SMALL_FILE_BYTES:
        with _connect(database) as connection:
            _remember(connection, status, sha256)


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
    # Text, as device and inode numbers may be larger than SQLite's integers.
    return str(status.st_dev), str(status.st_ino), status.st_size, status.st_mtime_ns


@contextmanager
def _connect(database: Path | None) -> Iterator[sqlite3.Connection]:
    path = database or home() / DIGESTS_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS digests (device TEXT, inode TEXT, size INTEGER, mtime_ns INTEGER,"
                " sha256 TEXT, PRIMARY KEY (device, inode)) WITHOUT ROWID"
            )
            yield connection
    except (sqlite3.Error, OSError) as error:
        remedy = "remove it (it only saves time), and check that you may write to its directory"
        raise StoreError(f"cannot be used: {error}", subject=str(path), remedy=remedy) from error


def _remember(connection: sqlite3.Connection, status: os.stat_result, digest: str) -> None:
    connection.execute("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?)", (*_identity(status), digest))

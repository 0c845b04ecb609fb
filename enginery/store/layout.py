"""The layout of a store, which is the same in a directory and in a bucket, and how its records are read.

A damaged record is ignored with a warning: the step runs again and replaces the record. A record of a newer Enginery is
an error: this version may not understand it, and must not replace it.
"""

import json
import logging
import re
from contextlib import suppress
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from enginery.core.errors import StoreError
from enginery.store.steps import RECORD_SCHEMA, FileRecord, StepRecord

logger = logging.getLogger(__name__)

STEPS = "steps"
BLOBS = "blobs/sha256"
_KEY = re.compile(r"[0-9A-Za-z_-]{1,128}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class StillLockedError(StoreError):
    """Another process held the lock for longer than the caller wanted to wait."""


def record_path(key: str) -> str:
    """The path of a step's record, relative to the store.

    Raises:
        StoreError: when `key` is not a step key.
    """
    if not _KEY.fullmatch(key):
        raise StoreError("is not a step key", subject=key, remedy="take the key from `enginery plan`")
    return f"{STEPS}/{key}.json"


def blob_path(file: FileRecord) -> str:
    """The path of a file's bytes, relative to the store.

    Raises:
        StoreError: when the `sha256` of the file is not a digest.
    """
    if not _SHA256.fullmatch(file.sha256):
        raise StoreError("a record has something else in place of a SHA-256", subject=file.sha256 or file.path)
    return f"{BLOBS}/{file.sha256[:2]}/{file.sha256}"


def safe_path(file: FileRecord) -> PurePosixPath:
    """The file's path, relative to an output directory and certainly inside it.

    Raises:
        StoreError: when the path leads outside. Enginery does not write such a record.
    """
    path = PurePosixPath(file.path)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in file.path:
        raise StoreError("a record names a file outside its output", subject=file.path, remedy="remove that record")
    return path


def record_bytes(record: StepRecord) -> bytes:
    """The bytes of a record in the store: JSON that people can read."""
    return f"{record.model_dump_json(indent=1)}\n".encode()


def parse_record(data: bytes, key: str, where: str) -> StepRecord | None:
    """The record in `data`; None, with a warning, when it is damaged.

    Raises:
        StoreError: when a newer Enginery wrote it.
    """
    try:
        record = StepRecord.model_validate_json(data)
    except ValidationError as error:
        with suppress(ValueError, KeyError, TypeError):
            _refuse_newer(json.loads(data)["record_schema"], where)
        logger.warning("%s is damaged and is ignored: %s", where, error.errors()[0]["msg"])
        return None
    _refuse_newer(record.record_schema, where)
    if record.key != key:
        logger.warning("%s is the record of another step, %s, and is ignored", where, record.key)
        return None
    return record


def _refuse_newer(schema: object, where: str) -> None:
    if isinstance(schema, int) and schema > RECORD_SCHEMA:
        remedy = "use the newer Enginery, or another store"
        raise StoreError("was written by a newer Enginery", subject=where, remedy=remedy)


def not_in_output(path: Path) -> StoreError:
    """The error for a record with a file that the output does not have."""
    remedy = "let nothing remove files of a step's output before the store has them"
    return StoreError("the record names a file that is not there", subject=str(path), remedy=remedy)

"""The objects of the local S3 server, kept in a directory: the server itself only has them in memory.

`index.json` names every object and the file with its bytes, `blobs/<sha256>`. It is written last and atomically, so
after a crash the index of before is there, with all its files.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

from enginery.core.digests import bytes_digest
from enginery.core.files import write_atomic
from enginery.core.late import late

if TYPE_CHECKING:
    from botocore import exceptions as botocore_exceptions
    from mypy_boto3_s3 import S3Client
else:
    botocore_exceptions = late("botocore.exceptions")

TIME_GRAIN_SECONDS = 2.0
VANISHED = {"NoSuchKey", "NoSuchBucket"}


class SavedObject(BaseModel):
    """One object.

    Attributes:
        etag: its ETag when it was saved.
        sha256: names the file with its bytes.
        metadata: the user metadata.
    """

    bucket: str
    key: str
    etag: str
    sha256: str
    content_type: str
    metadata: dict[str, str]


class Index(BaseModel):
    """All buckets and objects."""

    buckets: list[str] = []
    objects: list[SavedObject] = []


class Seen(NamedTuple):
    """An object as it was when it was saved, at a time in seconds since the epoch."""

    at: float
    modified: datetime
    saved: SavedObject

    def is_still(self, entry: Any) -> bool:
        """Whether the entry of a listing has the same content and metadata.

        The server gives times in whole seconds: an object changed just before it was saved may have changed again.
        """
        settled = self.at - self.modified.timestamp() > TIME_GRAIN_SECONDS
        return settled and (entry["ETag"], entry["LastModified"]) == (self.saved.etag, self.modified)


class ObjectFiles:
    """The directory, and what is in it."""

    def __init__(self, directory: Path) -> None:
        self.blobs = directory / "blobs"
        self.file = directory / "index.json"
        self.index = Index.model_validate_json(self.file.read_bytes()) if self.file.exists() else Index()
        self._seen: dict[tuple[str, str], Seen] = {}

    def restore(self, s3: "S3Client") -> int:
        """Put everything back into an empty server, and return the number of objects."""
        for bucket in self.index.buckets:
            s3.create_bucket(Bucket=bucket)
        for saved in self.index.objects:
            s3.put_object(
                Bucket=saved.bucket,
                Key=saved.key,
                Body=(self.blobs / saved.sha256).read_bytes(),
                ContentType=saved.content_type,
                Metadata=saved.metadata,
            )
        return len(self.index.objects)

    def save(self, s3: "S3Client") -> None:
        """Save everything that the server holds; an object that is deleted meanwhile may be left out.

        Raises:
            StoreError: when the directory cannot be written; the objects saved before are kept.
        """
        buckets = [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
        seen = {}
        for bucket in buckets:
            for entry in _objects(s3, bucket):
                with _vanished_is_fine():
                    seen[bucket, entry["Key"]] = self._look_at(s3, bucket, entry)
        self._seen = seen
        objects = [one.saved for one in seen.values()]
        self.index = Index(buckets=buckets, objects=objects)
        write_atomic(self.file, self.index.model_dump_json())
        self._remove_others({saved.sha256 for saved in objects})

    def _look_at(self, s3: "S3Client", bucket: str, entry: Any) -> Seen:
        before = self._seen.get((bucket, entry["Key"]))
        if before and before.is_still(entry):
            return before
        return Seen(time.time(), entry["LastModified"], self._save_object(s3, bucket, entry["Key"]))

    def _save_object(self, s3: "S3Client", bucket: str, key: str) -> SavedObject:
        found = s3.get_object(Bucket=bucket, Key=key)
        data = found["Body"].read()
        digest = bytes_digest(data)
        if not (self.blobs / digest).exists():
            write_atomic(self.blobs / digest, data)
        return SavedObject(
            bucket=bucket,
            key=key,
            etag=found["ETag"],
            sha256=digest,
            content_type=found["ContentType"],
            metadata=found["Metadata"],
        )

    def _remove_others(self, wanted: set[str]) -> None:
        for blob in self.blobs.iterdir() if self.blobs.exists() else ():
            if blob.name not in wanted:
                blob.unlink()


def _objects(s3: "S3Client", bucket: str) -> list[Any]:
    entries: list[Any] = []
    with _vanished_is_fine():
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            entries += page.get("Contents", [])
    return entries


@contextmanager
def _vanished_is_fine() -> Iterator[None]:
    """Ignore that something was deleted after it was listed."""
    try:
        yield
    except botocore_exceptions.ClientError as error:
        if error.response["Error"]["Code"] not in VANISHED:
            raise

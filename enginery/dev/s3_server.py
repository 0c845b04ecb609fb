"""The local S3 server: moto's server, which keeps its objects in a directory between runs. Run it with `python -m`.

Objects are saved about a second after each change, and at the end, after SIGTERM. If they cannot be saved while the
server runs, it prints the error and tries again. At the end, such an error gives an exit status other than 0.
`index.json` names every object and the file with its bytes, `blobs/<sha256>`. It is written last and atomically: after
a crash, the previous index and all its files are there.
"""

import argparse
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

from enginery.core.digests import bytes_digest
from enginery.core.files import write_atomic
from enginery.core.late import late
from enginery.dev.ready import LOOPBACK

if TYPE_CHECKING:
    from boto3 import session as boto3_session
    from botocore import config as botocore_config
    from botocore import exceptions as botocore_exceptions
    from moto.moto_server import werkzeug_app as moto_app
    from mypy_boto3_s3 import S3Client
    from werkzeug import exceptions as werkzeug_exceptions
    from werkzeug import serving as werkzeug_serving
    from werkzeug import wsgi as werkzeug_wsgi
else:
    boto3_session = late("boto3.session")
    botocore_config = late("botocore.config")
    botocore_exceptions = late("botocore.exceptions")
    moto_app = late("moto.moto_server.werkzeug_app")
    werkzeug_exceptions = late("werkzeug.exceptions")
    werkzeug_serving = late("werkzeug.serving")
    werkzeug_wsgi = late("werkzeug.wsgi")

SAVE_AFTER_SECONDS = 1.0
TIME_GRAIN_SECONDS = 2.0
DELETED = {"NoSuchKey", "NoSuchBucket"}
READING = {"GET", "HEAD", "OPTIONS"}
KEY = "enginery-local"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": KEY}
REGION = "us-east-1"

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class SavedObject(BaseModel):
    """A saved object.

    Attributes:
        etag: the ETag when the object was saved.
        sha256: the name of the file with the bytes.
        metadata: the user metadata.
    """

    bucket: str
    key: str
    etag: str
    sha256: str
    content_type: str
    metadata: dict[str, str]


class Index(BaseModel):
    """All saved buckets and objects."""

    buckets: list[str] = []
    objects: list[SavedObject] = []


class Seen(NamedTuple):
    """An object when it was saved. `at` is the time, in seconds since the epoch; `modified` is from the server."""

    at: float
    modified: datetime
    saved: SavedObject

    def is_unchanged(self, entry: Any) -> bool:
        """Whether the object in an entry of a listing has certainly not changed since it was saved.

        The server gives times in whole seconds. So an object that was changed just before may have changed again.
        """
        settled = self.at - self.modified.timestamp() > TIME_GRAIN_SECONDS
        return settled and (entry["ETag"], entry["LastModified"]) == (self.saved.etag, self.modified)


class ObjectFiles:
    """The directory with the saved objects."""

    def __init__(self, directory: Path) -> None:
        self.blobs = directory / "blobs"
        self.file = directory / "index.json"
        self.index = Index.model_validate_json(self.file.read_bytes()) if self.file.exists() else Index()
        self._seen: dict[tuple[str, str], Seen] = {}

    def restore(self, s3: "S3Client") -> int:
        """Put all saved objects into an empty server. Returns their number."""
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
        """Save all objects of the server. An object that is deleted during the save may be left out.

        Raises:
            StoreError: when the directory cannot be written. The objects of the previous save are kept.
        """
        buckets = [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
        seen = {}
        for bucket in buckets:
            for entry in _objects(s3, bucket):
                with _ignoring_deleted():
                    seen[bucket, entry["Key"]] = self._look_at(s3, bucket, entry)
        self._seen = seen
        self.index = Index(buckets=buckets, objects=[one.saved for one in seen.values()])
        write_atomic(self.file, self.index.model_dump_json())
        wanted = {saved.sha256 for saved in self.index.objects}
        for blob in self.blobs.iterdir() if self.blobs.exists() else ():
            if blob.name not in wanted:
                blob.unlink()

    def _look_at(self, s3: "S3Client", bucket: str, entry: Any) -> Seen:
        before = self._seen.get((bucket, entry["Key"]))
        if before and before.is_unchanged(entry):
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


def _objects(s3: "S3Client", bucket: str) -> list[Any]:
    entries: list[Any] = []
    with _ignoring_deleted():
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            entries += page.get("Contents", [])
    return entries


@contextmanager
def _ignoring_deleted() -> Iterator[None]:
    """Ignore the error for an object or a bucket that was deleted after it was listed."""
    try:
        yield
    except botocore_exceptions.ClientError as error:
        if error.response["Error"]["Code"] not in DELETED:
            raise


class Watched:
    """Passes requests on to the application, one at a time, and sets `changed` when a request may have changed objects.

    Moto is not thread-safe: a request that lists or reads fails if another request puts or deletes an object then.
    """

    def __init__(self, application: Application) -> None:
        self.application = application
        self.changed = threading.Event()
        self._one_at_a_time = threading.Lock()
        self._closed = False

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a request."""
        changing = environ["REQUEST_METHOD"] not in READING
        body = werkzeug_wsgi.get_input_stream(environ).read()  # before the lock, as the client may be slow
        environ["wsgi.input"] = BytesIO(body)
        with self._one_at_a_time:
            if changing and self._closed:
                return werkzeug_exceptions.ServiceUnavailable()(environ, start_response)
            answer = self.application(environ, start_response)
            if changing:
                self.changed.set()
            return answer

    def close(self) -> None:
        """Refuse changes from now on. So the last save has all changes that were accepted."""
        with self._one_at_a_time:
            self._closed = True


def serve(port: int, directory: Path, bucket: str) -> None:
    """Serve until SIGTERM or SIGINT. `bucket` is made when it does not exist."""

    class Silent(werkzeug_serving.WSGIRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002  werkzeug's name
            """Log nothing for our own requests, which save and restore."""

    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    application = Watched(moto_app.DomainDispatcherApplication(moto_app.create_backend_app))
    server = werkzeug_serving.make_server(LOOPBACK, port, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    # Clients that connect before all objects are restored wait in the listen queue.
    inside = werkzeug_serving.make_server(LOOPBACK, 0, application, threaded=True, request_handler=Silent)
    threading.Thread(target=inside.serve_forever, daemon=True).start()
    s3 = client(f"http://{LOOPBACK}:{inside.server_port}")
    files = ObjectFiles(directory)
    print(f"restored {files.restore(s3)} objects", flush=True)  # noqa: T201  its log
    if bucket not in files.index.buckets:
        s3.create_bucket(Bucket=bucket)
    thread.start()
    _save_changes(application.changed, ending, lambda: files.save(s3))
    server.shutdown()
    application.close()
    _save_at_the_end(lambda: files.save(s3))
    s3.close()


def _save_changes(changed: threading.Event, ending: threading.Event, save: Callable[[], None]) -> None:
    """Save about a second after each change, until `ending` is set. A failed save is tried again."""
    printed = ""
    while not ending.wait(SAVE_AFTER_SECONDS):
        if not changed.is_set():
            continue
        changed.clear()  # before the save, so that a change during the save is not missed
        try:
            save()
            printed = ""
        except Exception as error:  # noqa: BLE001  whatever it is, the server must go on
            changed.set()
            message = f"objects could not be saved, trying again: {type(error).__name__}: {error}"
            if message != printed:  # only once: the disk may be full, and the log is on it
                print(message, flush=True)  # noqa: T201  its log
            printed = message


def _save_at_the_end(save: Callable[[], None]) -> None:
    try:
        save()
    except Exception as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
        problem = "the objects could not be saved at the end; the objects of the previous save are kept"
        raise SystemExit(f"{problem}: {reason}") from error


def client(url: str) -> "S3Client":
    """A client of the local server. It ignores the user's own AWS settings."""
    session = boto3_session.Session(aws_access_key_id=KEY, aws_secret_access_key=KEY, region_name=REGION)
    return session.client("s3", endpoint_url=url, config=botocore_config.Config(s3={"addressing_style": "path"}))


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--bucket", required=True)
    arguments = parser.parse_args()
    serve(arguments.port, arguments.directory, arguments.bucket)


if __name__ == "__main__":
    main()

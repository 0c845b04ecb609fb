"""The local S3 server: moto's, with its objects kept in a directory between runs. Run it with `python -m`.

Objects are saved a moment after each change, and at the end, after SIGTERM. While it serves, a failure to save is
printed and tried again; at the end it is an error, with an exit status other than 0. `index.json` names every object
and the file with its bytes, `blobs/<sha256>`. It is written last and atomically, so after a crash the index of before
is there, with all its files.
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
VANISHED = {"NoSuchKey", "NoSuchBucket"}
READING = {"GET", "HEAD", "OPTIONS"}
KEY = "enginery-local"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": KEY}
REGION = "us-east-1"

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


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
        self.index = Index(buckets=buckets, objects=[one.saved for one in seen.values()])
        write_atomic(self.file, self.index.model_dump_json())
        wanted = {saved.sha256 for saved in self.index.objects}
        for blob in self.blobs.iterdir() if self.blobs.exists() else ():
            if blob.name not in wanted:
                blob.unlink()

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


class Watched:
    """Passes requests on to the application, one at a time, and notes when one has changed something.

    Moto is not thread-safe: a request that lists or reads fails when another one puts or deletes an object meanwhile.
    """

    def __init__(self, application: Application) -> None:
        self.application = application
        self.changed = threading.Event()
        self._one_at_a_time = threading.Lock()
        self._closed = False

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a request."""
        changing = environ["REQUEST_METHOD"] not in READING
        body = werkzeug_wsgi.get_input_stream(environ).read()  # before the lock, as a sender may be slow
        environ["wsgi.input"] = BytesIO(body)
        with self._one_at_a_time:
            if changing and self._closed:
                return werkzeug_exceptions.ServiceUnavailable()(environ, start_response)
            answer = self.application(environ, start_response)
            if changing:
                self.changed.set()
            return answer

    def close(self) -> None:
        """Refuse changes from now on: everything that was accepted before this is then saved."""
        with self._one_at_a_time:
            self._closed = True


def serve(port: int, directory: Path, bucket: str) -> None:
    """Serve until SIGTERM or SIGINT; `bucket` is made when it is not there."""

    class Silent(werkzeug_serving.WSGIRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002  werkzeug's name
            """Not a line for our own requests, which save and restore."""

    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    application = Watched(moto_app.DomainDispatcherApplication(moto_app.create_backend_app))
    server = werkzeug_serving.make_server(LOOPBACK, port, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    # Clients that connect before everything is restored wait in the listening queue.
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
    """Save a moment after each change, until `ending` is set; a failure is tried again."""
    printed = ""
    while not ending.wait(SAVE_AFTER_SECONDS):
        if not changed.is_set():
            continue
        changed.clear()  # first, so that a change while saving is not missed
        try:
            save()
            printed = ""
        except Exception as error:  # noqa: BLE001  whatever it is, the server must go on
            changed.set()
            news = f"objects could not be saved, which is tried again: {type(error).__name__}: {error}"
            if news != printed:  # a full disk must not be filled with this line
                print(news, flush=True)  # noqa: T201  its log
            printed = news


def _save_at_the_end(save: Callable[[], None]) -> None:
    try:
        save()
    except Exception as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
        problem = "the objects could not be saved at the end, those of the save before are kept"
        raise SystemExit(f"{problem}: {reason}") from error


def client(url: str) -> "S3Client":
    """A client of the local server, whatever the user's own AWS settings are."""
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

"""The local S3 server: moto's, with its objects kept in a directory between runs. Run it with `python -m`.

Objects are saved a moment after each change and at the end, when it is told to end with SIGTERM. While it serves, a
failure to save is printed and tried again; at the end it is an error, with an exit status other than 0.
"""

import argparse
import signal
import threading
import traceback
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginery.dev.ready import LOOPBACK
from enginery.dev.s3_files import ObjectFiles

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SAVE_AFTER_SECONDS = 1.0
READING = {"GET", "HEAD", "OPTIONS"}
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "enginery-local", "AWS_SECRET_ACCESS_KEY": "enginery-local"}
REGION = "us-east-1"

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Watched:
    """Passes requests on to the application, one at a time, and notes when one has changed something.

    Moto's objects are not made for several threads: one that is put or deleted while another request lists or reads
    makes that one fail.
    """

    def __init__(self, application: Application) -> None:
        self.application = application
        self.changed = threading.Event()
        self._one_at_a_time = threading.Lock()
        self._closed = False

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a request."""
        from werkzeug.exceptions import ServiceUnavailable  # noqa: PLC0415  installed with the extra `local`
        from werkzeug.wsgi import get_input_stream  # noqa: PLC0415

        changing = environ["REQUEST_METHOD"] not in READING
        environ["wsgi.input"] = BytesIO(get_input_stream(environ).read())  # now: a slow sender keeps nobody waiting
        with self._one_at_a_time:
            if changing and self._closed:
                return ServiceUnavailable()(environ, start_response)
            answer = self.application(environ, start_response)
            if changing:
                self.changed.set()
            return answer

    def close(self) -> None:
        """Let nothing change from now on: what was answered before this is all there is to save."""
        with self._one_at_a_time:
            self._closed = True


def serve(port: int, directory: Path, bucket: str) -> None:
    """Serve until SIGTERM or SIGINT; `bucket` is made when it is not there."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app  # noqa: PLC0415
    from werkzeug.serving import WSGIRequestHandler, make_server  # noqa: PLC0415  installed with the extra `local`

    class Silent(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002  werkzeug's name
            """Our own requests, for saving and restoring, are not worth a line."""

    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    application = Watched(DomainDispatcherApplication(create_backend_app))
    server = make_server(LOOPBACK, port, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    # Clients that come before everything is back wait in the listening queue.
    inside = make_server(LOOPBACK, 0, application, threaded=True, request_handler=Silent)
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
    """Save a moment after each change, until it is time to end; what cannot be saved now is tried again."""
    told = ""
    while not ending.wait(SAVE_AFTER_SECONDS):
        if not changed.is_set():
            continue
        changed.clear()  # first, so that a change while saving is not missed
        try:
            save()
            told = ""
        except Exception as error:  # noqa: BLE001  whatever it is, its clients need the server more
            changed.set()
            told = _tell(f"objects could not be saved, which is tried again: {type(error).__name__}: {error}", told)


def _save_at_the_end(save: Callable[[], None]) -> None:
    try:
        save()
    except Exception as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}"
        raise SystemExit(
            f"the objects could not be saved at the end, those of the save before are kept: {reason}"
        ) from error


def _tell(news: str, told: str) -> str:
    """Print news unless they are what was told last: a full disk must not be filled with the news that it is full."""
    if news != told:
        print(news, flush=True)  # noqa: T201  its log
    return news


def client(url: str) -> "S3Client":
    """A client of the local server, whatever the user's own AWS settings are."""
    from boto3.session import Session  # noqa: PLC0415  slow to import
    from botocore.config import Config  # noqa: PLC0415

    session = Session(
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        region_name=REGION,
    )
    return session.client("s3", endpoint_url=url, config=Config(s3={"addressing_style": "path"}))


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

"""The local S3 server: moto's, with its objects kept in a directory between runs. Run it with `python -m`.

Objects are saved a moment after each change, and at the end, after SIGTERM. While it serves, a failure to save is
printed and tried again; at the end it is an error, with an exit status other than 0.
"""

import argparse
import signal
import threading
import traceback
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginery.core.late import late
from enginery.dev.ready import LOOPBACK
from enginery.dev.s3_objects import ObjectFiles

if TYPE_CHECKING:
    from boto3 import session as boto3_session
    from botocore import config as botocore_config
    from moto.moto_server import werkzeug_app as moto_app
    from mypy_boto3_s3 import S3Client
    from werkzeug import exceptions as werkzeug_exceptions
    from werkzeug import serving as werkzeug_serving
    from werkzeug import wsgi as werkzeug_wsgi
else:
    boto3_session = late("boto3.session")
    botocore_config = late("botocore.config")
    moto_app = late("moto.moto_server.werkzeug_app")
    werkzeug_exceptions = late("werkzeug.exceptions")
    werkzeug_serving = late("werkzeug.serving")
    werkzeug_wsgi = late("werkzeug.wsgi")

SAVE_AFTER_SECONDS = 1.0
READING = {"GET", "HEAD", "OPTIONS"}
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "enginery-local", "AWS_SECRET_ACCESS_KEY": "enginery-local"}
REGION = "us-east-1"

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


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
    session = boto3_session.Session(
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        region_name=REGION,
    )
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

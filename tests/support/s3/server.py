"""A real S3 API over HTTP on a free port: moto's server, in threads of this process. It keeps objects in memory."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from io import BytesIO
from typing import Any
from urllib.request import Request, urlopen

import boto3

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing"}


MOST_AT_ONCE = 1000
"""The largest number of objects that one request can remove."""

_running: list["S3Server"] = []


class S3Server:
    """A running server; `url` is its address.

    Servers that run at once in one process share their buckets, so use new names. When the last one ends, all are gone.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self._buckets: list[str] = []
        self.url = f"http://{host}:{port}"
        self.admin = self.client()

    def client(self) -> Any:
        """A new client, independent of the tested code. The caller closes it."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        )

    def create_bucket(self, name: str) -> None:
        self.admin.create_bucket(Bucket=name)
        self._buckets.append(name)

    def remove_buckets(self) -> None:
        """Remove the buckets that were created here, with all their objects."""
        for name in self._buckets:
            keys = self.keys(name)
            for start in range(0, len(keys), MOST_AT_ONCE):
                self.admin.delete_objects(
                    Bucket=name, Delete={"Objects": [{"Key": key} for key in keys[start : start + MOST_AT_ONCE]]}
                )
            self.admin.delete_bucket(Bucket=name)
        self._buckets.clear()

    def keys(self, bucket: str) -> list[str]:
        """Every key in the bucket, sorted."""
        pages = self.admin.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return sorted(entry["Key"] for page in pages for entry in page.get("Contents", []))

    def close(self) -> None:
        self.admin.close()

    def environment(self) -> dict[str, str]:
        """The environment variables for a process to use this server and none of the user's AWS settings."""
        return s3_environment(self.url)


def s3_environment(url: str) -> dict[str, str]:
    """AWS settings for the server at `url`, the same for every test."""
    nothing = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    return {"AWS_ENDPOINT_URL": url, "AWS_EC2_METADATA_DISABLED": "true", **CREDENTIALS, **nothing}


@contextmanager
def running_s3_server() -> Iterator[S3Server]:
    """Run a server without buckets until the block ends. No environment variable is changed.

    All blocks of a process share one server, which ends with the process. So they can share its clients, too.
    """
    running = S3Server("127.0.0.1", _port())
    _running.append(running)
    try:
        yield running
        running.remove_buckets()
    finally:
        _running.remove(running)
        if not _running:  # remove what a test has made without `create_bucket`, or has left when it failed
            urlopen(Request(f"{running.url}/moto-api/reset", method="POST")).close()
        running.close()


@cache
def _port() -> int:
    """Start the server of this process; returns its port."""
    from botocore.utils import parse_to_aware_datetime
    from moto.core import errors, serialize
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server
    from werkzeug.test import run_wsgi_app

    class Application(DomainDispatcherApplication):
        """Finds the service of a host only once. Moto itself lists its own directory for each request."""

        def __init__(self) -> None:
            super().__init__(create_backend_app)
            self.get_backend_for_host = cache(super().get_backend_for_host)  # type: ignore[method-assign]

    class Handler(WSGIRequestHandler):
        """Keeps connections open, like S3 and unlike werkzeug. Logs nothing, to keep the test's output clean."""

        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002  werkzeug's name
            """Log nothing."""

        def run_wsgi(self) -> None:
            environ = self.make_environ()
            length = None if "wsgi.input_terminated" in environ else int(self.headers.get("Content-Length", 0))
            environ["wsgi.input"] = BytesIO(environ["wsgi.input"].read(length))
            environ["wsgi.input_terminated"] = True
            parts, status, headers = run_wsgi_app(self.server.app, environ)
            body = b"".join(parts)
            code, _, reason = status.partition(" ")
            self.send_response(int(code), reason)
            for name, value in headers:
                self.send_header(name, value)
            if self.command == "HEAD":
                body = b""
            elif "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    # Moto makes this for each error, and parses the time of each object for each listing. Both are kept here.
    vars(errors)["ErrorLookupFactory"] = cache(errors.ErrorLookupFactory)
    vars(serialize)["parse_to_aware_datetime"] = lru_cache(maxsize=10000)(parse_to_aware_datetime)
    server = make_server("127.0.0.1", 0, Application(), threaded=True, request_handler=Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port

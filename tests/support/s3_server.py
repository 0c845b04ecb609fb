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
"""Objects that one request may remove."""

_running: list["S3Server"] = []


class S3Server:
    """A running server; `url` is where it listens.

    Servers that run at once in one process share their buckets: choose new names. After the last one nothing is left.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self._buckets: list[str] = []
        self.url = f"http://{host}:{port}"
        self._admin = self.client()

    def client(self) -> Any:
        """A client of its own, to look at the server from outside the code under test; close it."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        )

    def create_bucket(self, name: str) -> None:
        self._admin.create_bucket(Bucket=name)
        self._buckets.append(name)

    def remove_buckets(self) -> None:
        """Remove what was created here, with everything in it."""
        for name in self._buckets:
            keys = self.keys(name)
            for start in range(0, len(keys), MOST_AT_ONCE):
                self._admin.delete_objects(
                    Bucket=name, Delete={"Objects": [{"Key": key} for key in keys[start : start + MOST_AT_ONCE]]}
                )
            self._admin.delete_bucket(Bucket=name)
        self._buckets.clear()

    def keys(self, bucket: str) -> list[str]:
        """Every key in the bucket, sorted."""
        pages = self._admin.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return sorted(entry["Key"] for page in pages for entry in page.get("Contents", []))

    def close(self) -> None:
        self._admin.close()

    def environment(self) -> dict[str, str]:
        """What a process needs to use this server and nothing else of the user's AWS settings."""
        return s3_environment(self.url)


def s3_environment(url: str) -> dict[str, str]:
    """AWS settings for the server at `url`, the same for every test."""
    nothing = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    return {"AWS_ENDPOINT_URL": url, "AWS_EC2_METADATA_DISABLED": "true", **CREDENTIALS, **nothing}


@contextmanager
def running_s3_server() -> Iterator[S3Server]:
    """A server with no buckets, for as long as the block lasts; nothing global is set.

    All blocks of a process share one server, which ends with the process: so its clients can be shared as well.
    """
    running = S3Server("127.0.0.1", _port())
    _running.append(running)
    try:
        yield running
        running.remove_buckets()
    finally:
        _running.remove(running)
        if not _running:  # what a test has made by itself, or left when it failed
            urlopen(Request(f"{running.url}/moto-api/reset", method="POST")).close()
        running.close()


@cache
def _port() -> int:
    """Where this process's server listens; starts it."""
    from botocore.utils import parse_to_aware_datetime
    from moto.core import errors, serialize
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server
    from werkzeug.test import run_wsgi_app

    class Application(DomainDispatcherApplication):
        """Moto's. Which service a host is, it finds out once: it lists its own directory for that."""

        def __init__(self) -> None:
            super().__init__(create_backend_app)
            self.get_backend_for_host = cache(super().get_backend_for_host)  # type: ignore[method-assign]

    class Handler(WSGIRequestHandler):
        """Keeps connections, as S3 does and werkzeug's does not, and says nothing: a test's output is its own."""

        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002  werkzeug's name
            """Say nothing."""

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

    # It makes one for each error, and reads the time of each object for each listing; these remember what they read.
    vars(errors)["ErrorLookupFactory"] = cache(errors.ErrorLookupFactory)
    vars(serialize)["parse_to_aware_datetime"] = lru_cache(maxsize=10000)(parse_to_aware_datetime)
    server = make_server("127.0.0.1", 0, Application(), threaded=True, request_handler=Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port

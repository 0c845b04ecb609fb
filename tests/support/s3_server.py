"""A real S3 API over HTTP on a free port: moto's server, in threads of this process. It keeps objects in memory."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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
        self._admin = self.client()

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
        self._admin.create_bucket(Bucket=name)
        self._buckets.append(name)

    def remove_buckets(self) -> None:
        """Remove the buckets that were created here, with all their objects."""
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
        """The environment variables for a process to use this server and none of the user's AWS settings."""
        return s3_environment(self.url)


def s3_environment(url: str) -> dict[str, str]:
    """AWS settings for the server at `url`, the same for every test."""
    nothing = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    return {"AWS_ENDPOINT_URL": url, "AWS_EC2_METADATA_DISABLED": "true", **CREDENTIALS, **nothing}


@contextmanager
def running_s3_server() -> Iterator[S3Server]:
    """Run a server without buckets until the block ends. No environment variable is changed."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Remembering(DomainDispatcherApplication):
        """Looks up once what serves a host: moto walks through its own directory to find out."""

        def __init__(self) -> None:
            super().__init__(create_backend_app)
            self._backends: dict[str | None, Any] = {}

        def get_backend_for_host(self, host: str | None) -> Any:
            if host not in self._backends:
                self._backends[host] = super().get_backend_for_host(host)
            return self._backends[host]

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002  werkzeug's name
            """Log nothing, to keep the test's output clean."""

    server = make_server("127.0.0.1", 0, Remembering(), threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    running = S3Server("127.0.0.1", server.server_port)
    _running.append(running)
    try:
        yield running
        running.remove_buckets()
    finally:
        _running.remove(running)
        if not _running:  # remove what a test has made without `create_bucket`, or has left when it failed
            urlopen(Request(f"{running.url}/moto-api/reset", method="POST")).close()
        running.close()
        server.shutdown()
        thread.join()
        server.server_close()

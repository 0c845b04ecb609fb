"""Tests of the local S3 server as a real process: errors while it saves do not stop it, and no object is lost."""

import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from mypy_boto3_s3 import S3Client
from werkzeug.test import EnvironBuilder, run_wsgi_app

from enginery.core.errors import StoreError
from enginery.dev import s3_server
from enginery.dev.ready import LOOPBACK, answers, free_port
from enginery.dev.s3_server import ObjectFiles, client
from tests.support.waiting import wait_until

BUCKET = "kept"
SAVES_ALL_THE_TIME = """
import sys
from enginery.dev import s3_server
sys.setswitchinterval(1e-6)  # its threads meet wherever they can
s3_server.SAVE_AFTER_SECONDS = 0.001
s3_server.main()
"""
STOP_SECONDS = 30.0
ROUNDS = 20


class Server:
    """One run of the server.

    Attributes:
        url: its address.
        directory: has its saved objects.
        log: the file with its output.
    """

    def __init__(self, directory: Path) -> None:
        port = free_port()
        self.url = f"http://{LOOPBACK}:{port}"
        self.directory, self.log = directory, directory.with_suffix(".log")
        places = ["--port", str(port), "--directory", str(directory), "--bucket", BUCKET]
        with self.log.open("w") as output:
            argv = [sys.executable, "-c", SAVES_ALL_THE_TIME, *places]
            self.process = subprocess.Popen(argv, stdout=output, stderr=output)

    def answers(self) -> bool:
        """Whether the server answers. If it has ended, the test fails with the server's output."""
        assert self.process.poll() is None, self.log.read_text()
        return answers(self.url, "/")

    def end(self) -> int:
        """Ask the server to end. Returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)

    def client(self) -> "closing[S3Client]":
        """A new client of this server."""
        return closing(client(self.url))


@pytest.fixture(autouse=True)
def _no_failure_is_hidden_by_trying_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")


@contextmanager
def serving(directory: Path) -> Iterator[Server]:
    server = Server(directory)
    try:
        wait_until(server.answers, seconds=60.0)
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def test_objects_that_come_and_go_while_it_saves_neither_end_it_nor_get_lost(tmp_path: Path) -> None:
    with serving(tmp_path / "s3") as server:
        with ThreadPoolExecutor(4) as threads:
            changes = [threads.submit(come_and_go, server, name) for name in ("a", "b", "c")]
            listing = threads.submit(look_around, server)
            for done in [*changes, listing]:
                done.result()
        assert server.answers()
        before = held(server)
        assert len(before) == 3 * ROUNDS // 2
        assert server.end() == 0, server.log.read_text()
        assert "could not be saved" not in server.log.read_text()
    with serving(tmp_path / "s3") as again:
        assert held(again) == before


def test_a_failure_to_save_is_reported_and_the_next_save_has_the_change(tmp_path: Path) -> None:
    with serving(tmp_path / "s3") as server, server.client() as s3:
        obstacle = server.directory / "blobs"
        server.directory.mkdir(exist_ok=True)
        obstacle.write_text("a file where a directory should be")
        s3.put_object(Bucket=BUCKET, Key="note", Body=b"kept")
        wait_until(lambda: "could not be saved" in server.log.read_text())
        assert str(obstacle) in server.log.read_text()
        assert server.answers()
        obstacle.unlink()
        wait_until(lambda: "note" in [saved.key for saved in ObjectFiles(server.directory).index.objects])
        assert server.end() == 0
    with serving(tmp_path / "s3") as again:
        assert held(again) == {"note": b"kept"}


def test_a_failure_that_goes_on_is_reported_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_server, "SAVE_AFTER_SECONDS", 0.001)
    changed, ending, tries = threading.Event(), threading.Event(), itertools.count(1)

    def save() -> None:
        if next(tries) == 3:
            ending.set()
        raise StoreError("the disk is full", subject=str(tmp_path))

    changed.set()
    s3_server._save_changes(changed, ending, save)
    assert next(tries) == 4
    assert capfd.readouterr().out.count("the disk is full") == 1


def test_what_cannot_be_saved_at_the_end_is_an_error(tmp_path: Path) -> None:
    with serving(tmp_path / "s3") as server, server.client() as s3:
        obstacle = server.directory / "blobs"
        server.directory.mkdir(exist_ok=True)
        obstacle.write_text("a file where a directory should be")
        s3.put_object(Bucket=BUCKET, Key="note", Body=b"lost")
        assert server.end() == 1
        error = server.log.read_text().rpartition("the objects could not be saved at the end")[2]
        assert str(obstacle) in error.splitlines()[0]


def test_nothing_is_changed_once_the_last_save_begins() -> None:
    passed = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        passed.append(environ["REQUEST_METHOD"])
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]

    watched = s3_server.Watched(application)
    assert run_wsgi_app(watched, EnvironBuilder(method="PUT", data=b"x").get_environ())[1] == "200 OK"
    assert watched.changed.is_set()
    watched.close()
    assert run_wsgi_app(watched, EnvironBuilder(method="GET").get_environ())[1] == "200 OK"
    assert run_wsgi_app(watched, EnvironBuilder(method="PUT", data=b"y").get_environ())[1].startswith("503")
    assert passed == ["PUT", "GET"]


def come_and_go(server: Server, name: str) -> None:
    """Put own objects and a shared one, then delete every second one and the shared one."""
    with server.client() as s3:
        for number in range(ROUNDS):
            s3.put_object(Bucket=BUCKET, Key=f"{name}/{number}", Body=f"{name} {number}".encode())
            s3.put_object(Bucket=BUCKET, Key="claim", Body=name.encode() * 1000)
            if number % 2:
                s3.delete_object(Bucket=BUCKET, Key=f"{name}/{number}")
            s3.delete_object(Bucket=BUCKET, Key="claim")


def look_around(server: Server) -> None:
    """List objects while other threads change them."""
    with server.client() as s3:
        for _ in range(ROUNDS):
            s3.list_objects_v2(Bucket=BUCKET)


def held(server: Server) -> dict[str, bytes]:
    """The content of every object in the bucket."""
    with server.client() as s3:
        keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])]
        return {key: s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}

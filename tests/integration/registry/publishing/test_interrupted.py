"""Tests of publishers that are killed, and of publishers of the same build at the same time."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from enginery.core.errors import RegistryError
from enginery.registry import Registry, publish
from tests.support.http.faulty_proxy import Fault, Proxy
from tests.support.registry.builds import Build
from tests.support.s3.server import S3Server
from tests.support.waiting import wait_until

CHECKOUT = Path(__file__).parents[4]
PUBLISH = """
import sys
from pathlib import Path
from enginery.core.s3 import transfer
from enginery.registry import publish
from tests.support.registry.builds import Build

transfer.SMALL_AT_ONCE = 2  # so that there is a middle in which to be killed
address, directory = sys.argv[1:]
context = Build().context(Path(directory), address)
def log(line):
    print(line, flush=True)
    sys.stdin.readline()  # go on when told to

context.log = log
publish(context)
"""


def start(address: str, directory: Path) -> subprocess.Popen[str]:
    directory.mkdir()
    return subprocess.Popen(
        [sys.executable, "-c", PUBLISH, address, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=CHECKOUT,
        env=dict(os.environ),
    )


def whole_or_absent(server: S3Server, address: str) -> bool:
    """Whether the build exists. If it does, every byte that its manifest names must be there."""
    registry = Registry(address)
    builds = registry.builds()
    stored = set(server.keys(address.removeprefix("s3://").split("/")[0]))
    for build in builds:
        manifest = registry.manifest(build.model, build.build_id)
        home = f"prod/models/{build.model}/builds/{build.build_id}"
        assert {f"{home}/{file.path}" for file in manifest.files} <= stored
    if registry.channel("tiny-llama", "candidate", "cpu-int4"):
        assert builds
    return bool(builds)


@pytest.mark.parametrize("lines", [1, 2, 3, 5])
def test_a_publisher_that_is_killed_leaves_nothing_half_made(
    s3_server: S3Server, address: str, tmp_path: Path, lines: int
) -> None:
    with start(address, tmp_path / "killed") as process:
        assert process.stdout is not None
        assert process.stdin is not None
        for _ in range(lines - 1):
            assert process.stdout.readline()
            process.stdin.write("\n")
            process.stdin.flush()
        assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not whole_or_absent(s3_server, address)
    publish(Build().context(tmp_path / "again", address))
    assert whole_or_absent(s3_server, address)
    assert not [key for key in s3_server.keys(address.split("/")[2]) if key.endswith("/publishing.json")]


def test_two_publishers_of_the_same_build_at_once_both_succeed(
    s3_server: S3Server, address: str, tmp_path: Path
) -> None:
    with start(address, tmp_path / "1") as one, start(address, tmp_path / "2") as other:
        for process in (one, other):
            process.communicate("\n" * 100, timeout=120)
    assert (one.returncode, other.returncode) == (0, 0)
    assert whole_or_absent(s3_server, address)


# An S3 server that cannot be reached, and one that refuses


@pytest.mark.parametrize("part", ["", "/tensorrt_llm/", "/publishing.json", "/manifest.json", "/channels/"])
def test_a_publish_outlives_an_s3_that_is_away_for_a_while(
    s3_server: S3Server, address: str, proxy: Proxy, tmp_path: Path, part: str
) -> None:
    proxy.fail(Fault("reset", times=100_000, matches=lambda _, path: part in path))
    back = threading.Timer(1.0, proxy.faults.clear)
    back.start()
    facts = publish(Build().context(tmp_path, address))
    back.join()
    assert facts["uploaded_bytes"] == facts["bytes"]
    assert whole_or_absent(s3_server, address)


def test_wrong_credentials_are_one_clear_error_that_is_not_tried_again(
    s3_server: S3Server, address: str, proxy: Proxy, tmp_path: Path
) -> None:
    body = b"<Error><Code>InvalidAccessKeyId</Code><Message>no</Message></Error>"
    proxy.fail(Fault("answer", times=100_000, status=403, body=body))
    with pytest.raises(RegistryError, match="does not accept the credentials") as caught:
        publish(Build().context(tmp_path, address))
    assert "AWS_ACCESS_KEY_ID" in caught.value.remedy
    assert not caught.value.transient
    assert len(proxy.requests) == 1
    assert s3_server.keys(address.split("/")[2]) == []


def test_publishers_that_are_killed_one_after_the_other_send_no_file_twice(
    s3_server: S3Server, address: str, proxy: Proxy, tmp_path: Path
) -> None:
    def puts() -> list[str]:
        return [path for method, path in list(proxy.requests) if method == "PUT" and "/model_repository/" in path]

    def stored() -> list[str]:
        return [key for key in s3_server.keys(address.split("/")[2]) if "/model_repository/" in key]

    for number in range(3):
        kill_at, killed = len(puts()) + 2, threading.Event()

        def hold(method: str, path: str, kill_at: int = kill_at, killed: threading.Event = killed) -> None:
            if path in puts()[kill_at - 1 :] and method == "PUT":
                killed.wait(60)

        proxy.watch = hold
        with start(address, tmp_path / str(number)) as process:
            assert process.stdin is not None
            process.stdin.write("\n" * 100)
            process.stdin.flush()
            wait_until(lambda most=kill_at: len(puts()) >= most, seconds=120)  # type: ignore[misc]
            process.kill()
        assert not whole_or_absent(s3_server, address)
        killed.set()
        wait_until(lambda: len(stored()) == len(puts()), seconds=60)  # requests that were already sent still arrive
    proxy.watch = None
    publish(Build().context(tmp_path / "again", address))
    assert whole_or_absent(s3_server, address)
    assert sorted(puts()) == sorted(set(puts()))

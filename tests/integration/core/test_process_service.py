"""Tests of `process.Service`."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from enginery.core.errors import CommandError
from enginery.core.process.service import Service, stop_pid
from tests.support.processes.families import alive_among, family_argv, is_alive, wait_for_family
from tests.support.waiting import wait_until


@contextmanager
def running(argv: list[str], log_file: Path, **options: object) -> Iterator[Service]:
    service = Service.start(argv, log_file=log_file, **options)  # type: ignore[arg-type]
    try:
        yield service
    finally:
        service.stop(grace=0)


def test_a_service_runs_until_it_is_stopped_with_all_it_started(tmp_path: Path) -> None:
    with running(family_argv(tmp_path), tmp_path.parent / f"{tmp_path.name}.log") as service:
        pids = wait_for_family(tmp_path)
        assert service.alive()
        service.stop()
        assert not service.alive()
        assert alive_among([*pids, service.pid]) == []


def test_a_service_that_ignores_sigterm_is_killed_after_the_grace_period(tmp_path: Path) -> None:
    with running(family_argv(tmp_path, "stubborn"), tmp_path.parent / f"{tmp_path.name}.log") as service:
        pids = wait_for_family(tmp_path)
        service.stop(grace=0.1)
        assert alive_among(pids) == []


def test_a_service_that_ends_by_itself_is_not_alive(tmp_path: Path) -> None:
    with running(["sh", "-c", "echo bye; exit 3"], tmp_path / "log") as service:
        wait_until(lambda: not service.alive())
        assert service.last_lines()[-1] == "bye"


def test_stopping_twice_is_fine(tmp_path: Path) -> None:
    with running(["sleep", "600"], tmp_path / "log") as service:
        service.stop()
        service.stop()


def test_each_start_begins_a_new_private_log_with_the_command(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("of an earlier run\n")
    with running(["sh", "-c", "echo hello; sleep 600"], tmp_path / "log") as service:
        wait_until(lambda: "hello" in service.last_lines())
        assert service.last_lines() == ("sh -c 'echo hello; sleep 600'", "hello")
        assert service.last_lines(1) == ("hello",)
    (tmp_path / "new" / "log").parent.mkdir()
    with running(["true"], tmp_path / "new" / "log"):
        assert stat.S_IMODE((tmp_path / "new" / "log").stat().st_mode) == 0o600


def test_secrets_are_masked_in_the_lines_that_are_shown(tmp_path: Path) -> None:
    environment = {**os.environ, "AWS_SECRET_ACCESS_KEY": "very-secret-value"}
    argv = ["sh", "-c", "echo $AWS_SECRET_ACCESS_KEY $0; sleep 600", "very-secret-value"]
    with running(argv, tmp_path / "log", env=environment) as service:
        wait_until(lambda: service.last_lines()[-1] == "*** ***")
        assert "very-secret-value" not in str(service.argv)


def test_only_the_end_of_a_long_log_is_read(tmp_path: Path) -> None:
    with running(["seq", "1000000"], tmp_path / "log") as service:
        wait_until(lambda: not service.alive())
        assert service.last_lines(2) == ("999999", "1000000")


def test_a_service_whose_command_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="no such command"):
        Service.start(["no-such-server-here"], log_file=tmp_path / "log")


STARTER = """
import sys, time
from pathlib import Path
from enginery.core.process import Service
detach, log, told, *argv = sys.argv[1:]
service = Service.start(argv, log_file=Path(log), detach=detach == "detach")
Path(told).write_text(f"{service.pid} {service.created!r}")
if detach == "stay":
    time.sleep(600)
"""


def start_starter(tmp_path: Path, how: str, argv: list[str]) -> subprocess.Popen[bytes]:
    words = [how, str(tmp_path / "log"), str(tmp_path / "told"), *argv]
    return subprocess.Popen([sys.executable, "-W", "error", "-c", STARTER, *words], start_new_session=True)


def test_a_service_dies_with_the_killed_process_that_started_it(tmp_path: Path) -> None:
    (tmp_path / "pids").mkdir()
    starter = start_starter(tmp_path, "stay", family_argv(tmp_path / "pids"))
    pids = wait_for_family(tmp_path / "pids")
    os.killpg(starter.pid, signal.SIGKILL)
    starter.wait()
    wait_until(lambda: alive_among(pids) == [], seconds=30)


def test_a_detached_service_outlives_its_starter_and_is_stopped_by_another_process(tmp_path: Path) -> None:
    (tmp_path / "pids").mkdir()
    starter = start_starter(tmp_path, "detach", family_argv(tmp_path / "pids"))
    assert starter.wait(30) == 0
    pids = wait_for_family(tmp_path / "pids")
    pid, created = (tmp_path / "told").read_text().split()
    assert is_alive(int(pid))
    assert alive_among(pids) == pids
    assert stop_pid(int(pid), float(created))
    assert alive_among([*pids, int(pid)]) == []
    assert not stop_pid(int(pid), float(created))


def test_a_process_that_got_the_same_id_later_is_left_alone() -> None:
    other = subprocess.Popen(["sleep", "600"])
    try:
        created = psutil.Process(other.pid).create_time()
        assert not stop_pid(other.pid, created - 100)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_supervisor_that_hangs_is_ended_with_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enginery.core.process.service.KILL_SECONDS", 0.2)
    with running(["sleep", "600"], tmp_path / "log") as service:
        wait_until(lambda: psutil.Process(service.pid).children())
        family = [child.pid for child in psutil.Process(service.pid).children(recursive=True)]
        os.kill(service.pid, signal.SIGSTOP)
        service.stop(grace=0.1)
        assert alive_among([*family, service.pid]) == []

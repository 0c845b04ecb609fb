"""Tests of leases in S3: one machine works, the others wait, but not forever for a machine that died."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from enginery.core.errors import UsageError
from enginery.core.locks import Worker
from enginery.core.progress import no_log
from enginery.core.s3 import Address, Prefix
from enginery.store import open_store
from enginery.store.layout import StillLockedError
from enginery.store.leases import Lease, ObservedLease, lease_seconds, leased, watched
from tests.support.http.faulty_proxy import Fault, Proxy
from tests.support.s3.fixtures import bucket, prefix, proxy, server
from tests.support.waiting import wait_until

__all__ = ["bucket", "prefix", "proxy", "server"]

KEY = "5" * 64
ELSEWHERE = Worker(host="another-machine", pid=1, started=1.0)
HOLD = """
import sys
from enginery.store import open_store
with open_store(sys.argv[1]).lock("5" * 64, log=lambda line: print(line, flush=True)):
    print("held", flush=True)
    sys.stdin.readline()
"""


def put(prefix: Prefix, worker: Worker, *, seconds: float = 15.0, free: bool = False) -> None:
    """Write a lease as if it were another process's."""
    lease = Lease(worker=worker, seconds=seconds, free=free)
    prefix.put_bytes(f"leases/{KEY}.json", lease.model_dump_json().encode())


def there(prefix: Prefix) -> Lease:
    data = prefix.get_bytes(f"leases/{KEY}.json")
    assert data is not None
    return Lease.model_validate_json(data)


@pytest.fixture
def machines(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Machines"]:
    with ExitStack() as stack:
        yield Machines(f"s3://{bucket}/store", tmp_path, monkeypatch, stack)


class Machines:
    """Processes, each with its own home, that share only a store in S3."""

    def __init__(self, address: str, directory: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
        self.address, self.directory, self.monkeypatch, self.stack = address, directory, monkeypatch, stack

    def start(self, name: str) -> "subprocess.Popen[str]":
        """Start a process that takes the lock and releases it when it reads a line."""
        self.monkeypatch.setenv("ENGINERY_HOME", str(self.directory / name))
        argv = [sys.executable, "-c", HOLD, self.address]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.stack.enter_context(process)
        self.stack.callback(process.kill)
        return process


def line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def let_go(process: "subprocess.Popen[str]") -> None:
    process.communicate("\n", timeout=20)


def test_two_machines_with_one_key_at_once_work_one_after_the_other(machines: Machines) -> None:
    first = machines.start("one")
    assert line_of(first) == "held"
    second = machines.start("two")
    assert line_of(second) == f"waiting for process {first.pid} on {socket.gethostname()}, which works on it"
    let_go(first)
    assert line_of(second) == "held"
    let_go(second)


def test_the_lock_of_a_process_that_was_killed_is_free_at_once_on_its_own_machine(machines: Machines) -> None:
    first = machines.start("one")
    assert line_of(first) == "held"
    first.kill()
    first.wait()
    begun = time.monotonic()
    second = machines.start("two")
    assert line_of(second) == "held"
    assert time.monotonic() - begun < lease_seconds()
    let_go(second)


def test_the_lease_of_a_machine_that_has_died_ends(prefix: Prefix) -> None:
    put(prefix, ELSEWHERE, seconds=0.3)
    lines: list[str] = []
    with leased(prefix, KEY, patience=20, log=lines.append):
        assert there(prefix).worker == Worker.this()
    assert lines == ["waiting for process 1 on another-machine, which works on it"]


def test_a_lease_that_is_renewed_is_not_taken(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINERY_LEASE_SECONDS", "1")
    first = machines.start("one")
    assert line_of(first) == "held"
    prefix = Prefix(Address.parse(machines.address))
    held = ObservedLease(prefix, KEY)
    while there(prefix).renewed < 4:
        assert held.is_held()
    let_go(first)
    assert not held.is_held()


def test_a_machine_that_waits_too_long_gets_an_error(prefix: Prefix) -> None:
    put(prefix, ELSEWHERE)
    with pytest.raises(StillLockedError, match="another machine"), leased(prefix, KEY, patience=0, log=no_log):
        pass
    assert there(prefix).worker == ELSEWHERE


def test_a_lease_that_was_given_back_is_taken_at_once(prefix: Prefix) -> None:
    put(prefix, ELSEWHERE, free=True)
    with leased(prefix, KEY, patience=0, log=no_log):
        assert not there(prefix).free
    assert there(prefix).free


def test_a_lease_that_this_process_has_left_is_taken_at_once(prefix: Prefix) -> None:
    put(prefix, Worker.this())
    with leased(prefix, KEY, patience=0, log=no_log):
        pass


def test_what_is_no_lease_is_replaced(prefix: Prefix) -> None:
    prefix.put_bytes(f"leases/{KEY}.json", b"no lease")
    with leased(prefix, KEY, patience=0, log=no_log):
        assert there(prefix).worker == Worker.this()


def test_a_machine_that_has_lost_its_lease_works_on_and_does_not_take_it_back(
    prefix: Prefix, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ENGINERY_LEASE_SECONDS", "0.3")
    with leased(prefix, KEY, patience=0, log=no_log):
        put(prefix, ELSEWHERE)
        wait_until(lambda: "has taken the lease" in caplog.text, seconds=20)
    assert there(prefix).worker == ELSEWHERE


def test_of_many_that_come_at_once_one_works_at_a_time(prefix: Prefix) -> None:
    """Each thread acts as a process on another machine. The first to write gets the lease."""
    seen = [ObservedLease(prefix, KEY) for _ in range(8)]
    for observed in seen:
        assert not observed.is_held()
    won: list[bool] = []
    threads = [
        threading.Thread(target=lambda one=one: won.append(one.replace(Lease(worker=ELSEWHERE, seconds=15))))
        for one in seen
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]


def test_a_watcher_sees_whether_another_process_works(prefix: Prefix) -> None:
    at_work = watched(prefix, KEY)
    assert not at_work()
    with leased(prefix, KEY, patience=0, log=no_log):
        put(prefix, ELSEWHERE, seconds=0.2)
        assert at_work()
        wait_until(lambda: not at_work())


def test_an_s3_that_is_away_while_a_lease_is_renewed_does_not_end_the_work(
    prefix: Prefix, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ENGINERY_LEASE_SECONDS", "0.3")
    monkeypatch.setenv("ENGINERY_S3_PATIENCE", "0.2")
    with leased(prefix, KEY, patience=0, log=no_log):
        proxy.fail(Fault("answer", times=1000, matches=lambda method, _: method == "PUT"))
        wait_until(lambda: "could not be renewed" in caplog.text, seconds=20)
        proxy.faults.clear()
    assert there(prefix).free


@pytest.mark.parametrize("chosen", ["soon", "0", "-1", "inf", "nan"])
def test_a_lease_lasts_a_number_of_seconds(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINERY_LEASE_SECONDS", chosen)
    with pytest.raises(UsageError, match="ENGINERY_LEASE_SECONDS"):
        lease_seconds()


def test_a_local_store_is_watched_too(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    at_work = store.watch(KEY)
    assert not at_work()
    with store.lock(KEY):
        assert at_work()
        with pytest.raises(StillLockedError), store.lock(KEY, patience=0):
            pass
    assert not at_work()

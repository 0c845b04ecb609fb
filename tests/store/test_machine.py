"""Steps work side by side on a machine, but a measurement works alone."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from enginery.core.s3 import Address
from enginery.store import machine
from enginery.store.bucket import BucketStore, TieredStore
from enginery.store.local import LocalStore
from enginery.store.store import Store
from tests.support.paths import CHECKOUT

LONG = 30.0
"""Seconds after which a test that waits for an event gives up."""


class Step(threading.Thread):
    """A step in a thread of its own. It works until it is told to end."""

    def __init__(self, store: Store, label: str, *, alone: bool = False, gpu: bool = False) -> None:
        super().__init__(daemon=True)
        self.store, self.label, self.alone, self.gpu = store, label, alone, gpu
        self.lines: list[str] = []
        self.neighbours: tuple[str, ...] = ()
        self.waits, self.works, self.may_end = threading.Event(), threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with self.store.working(self.label, self._log, alone=self.alone, gpu=self.gpu) as self.neighbours:
            self.works.set()
            self.may_end.wait(LONG)

    def _log(self, line: str) -> None:
        self.lines.append(line)
        self.waits.set()

    def end(self) -> None:
        self.may_end.set()
        self.join(LONG)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@contextmanager
def holder(store: LocalStore, label: str, how: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of the CPU."""
    command = [sys.executable, "-m", "tests.support.store.holder", str(store.root), label, how]
    with subprocess.Popen(command, cwd=CHECKOUT, stdin=-1, stdout=-1, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "works\n"
            yield process
        finally:
            process.kill()


def test_steps_work_side_by_side(store: LocalStore) -> None:
    with ExitStack() as held:
        for label in ("build a", "build b", "validate c"):
            held.enter_context(store.working(label, pytest.fail, alone=False, gpu=False))


def test_a_measurement_waits_for_a_running_step_and_says_for_which(store: LocalStore) -> None:
    with store.working("build a", pytest.fail, alone=False, gpu=False):
        measured = Step(store, "bench b", alone=True)
        assert measured.waits.wait(LONG)
        assert not measured.works.is_set()
    assert measured.works.wait(LONG)
    measured.end()
    assert measured.lines == ["waits to be alone on this CPU: build a"]
    assert measured.neighbours == ()


def test_a_step_waits_until_the_measurement_has_ended(store: LocalStore) -> None:
    with store.working("bench a", pytest.fail, alone=True, gpu=False):
        step = Step(store, "build b")
        assert step.waits.wait(LONG)
        assert not step.works.is_set()
    assert step.works.wait(LONG)
    step.end()
    assert step.lines == ["waits until it is measured: bench a"]


def test_two_measurements_work_one_after_the_other(store: LocalStore) -> None:
    with store.working("bench a", pytest.fail, alone=True, gpu=False):
        other = Step(store, "bench b", alone=True)
        assert other.waits.wait(LONG)
        assert not other.works.is_set()
    assert other.works.wait(LONG)
    other.end()


def test_steps_that_come_later_do_not_keep_a_measurement_waiting(store: LocalStore) -> None:
    first = Step(store, "build a")
    assert first.works.wait(LONG)
    measured = Step(store, "bench b", alone=True)
    assert measured.waits.wait(LONG)
    later = Step(store, "build c")
    assert later.waits.wait(LONG)
    assert not later.works.is_set()
    first.end()
    assert measured.works.wait(LONG)
    assert not later.works.is_set()
    measured.end()
    assert later.works.wait(LONG)
    later.end()
    assert later.lines == ["waits until it is measured: bench b"]


@pytest.mark.parametrize("how", ["alone", "shared"])
def test_the_lock_of_a_killed_process_is_free(store: LocalStore, how: str) -> None:
    with holder(store, "step of another process", how) as process:
        measured = Step(store, "bench b", alone=True)
        assert measured.waits.wait(LONG)
        assert measured.lines == ["waits to be alone on this CPU: step of another process"]
        process.kill()
        assert measured.works.wait(LONG)
        measured.end()
    assert machine.Device("CPU", next(store.root.glob("locks/machine-*/cpu"))).holders() == []


def test_a_measurement_on_a_cpu_does_not_wait_for_one_on_a_gpu_only_for_the_cpu(store: LocalStore) -> None:
    """A step on a GPU uses the CPU, too."""
    with store.working("build gpu", pytest.fail, alone=False, gpu=True):
        measured = Step(store, "bench cpu", alone=True)
        assert measured.waits.wait(LONG)
    assert measured.works.wait(LONG)
    measured.end()


def test_a_measurement_on_a_gpu_does_not_wait_for_ever_for_the_cpu(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CPU_PATIENCE_SECONDS", 0.2)
    with store.working("convert a", pytest.fail, alone=False, gpu=False):
        measured = Step(store, "bench gpu", alone=True, gpu=True)
        assert measured.works.wait(LONG)
        measured.end()
    assert measured.neighbours == ("convert a",)
    assert "is measured beside convert a" in measured.lines[-1]


def test_a_measurement_on_a_gpu_waits_for_steps_on_the_gpu_however_long(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "CPU_PATIENCE_SECONDS", 0.0)
    with store.working("build gpu", pytest.fail, alone=False, gpu=True):
        measured = Step(store, "bench gpu", alone=True, gpu=True)
        assert measured.waits.wait(LONG)
        assert not measured.works.is_set()
    assert measured.works.wait(LONG)
    measured.end()
    assert measured.neighbours == ()


def test_a_store_in_s3_uses_the_lock_of_its_local_side(store: LocalStore) -> None:
    remote = BucketStore(Address.parse("s3://bucket/prefix"), scratch=store)
    for one in (remote, TieredStore(store, remote)):
        with one.working("build a", pytest.fail, alone=False, gpu=False):
            measured = Step(store, "bench b", alone=True)
            assert measured.waits.wait(LONG)
        measured.end()


def test_an_error_inside_frees_the_lock(store: LocalStore) -> None:
    with pytest.raises(ValueError, match="broken"), store.working("bench a", pytest.fail, alone=True, gpu=True):
        raise ValueError("broken")
    with store.working("bench b", pytest.fail, alone=True, gpu=True):
        pass

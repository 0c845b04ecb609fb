"""Tests of processes that share a local store and are killed while they use it."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from enginery.core.digests import file_digest
from enginery.store.local import LocalStore
from tests.support.store.outputs import contents, some_record, some_step, write_output

ROOT = Path(__file__).parents[3]
FILES = {f"rank{number}.safetensors": os.urandom(300_000) for number in range(12)}
Process = subprocess.Popen[str]


def adder(store: Path, source: Path, label: str) -> Process:
    """A process that adds the step after it has read a line."""
    command = [sys.executable, "-m", "tests.support.store.adder", str(store), str(source), "one", label]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def begin(process: Process) -> None:
    assert process.stdin
    process.stdin.write("go\n")
    process.stdin.flush()


def assert_nothing_half_made(store: LocalStore) -> None:
    """Check that every blob is complete, and that a record, if there is one, has all its blobs."""
    for blob in (store.root / "blobs").rglob("*"):
        if blob.is_file():
            assert file_digest(blob) == blob.name
    for path in (store.root / "steps").glob("[!.]*"):
        record = store.find(path.stem)
        assert record
        assert store.verify(record) == []


@pytest.fixture(scope="module")
def seconds(tmp_path_factory: pytest.TempPathFactory) -> float:
    """How long an adder works if it is not killed, in seconds."""
    root = tmp_path_factory.mktemp("unharmed")
    with adder(root / "store", write_output(root / "source", FILES), "unharmed") as process:
        assert process.stdout
        began = time.monotonic()
        begin(process)
        assert process.stdout.readline() == "worked\n"
        return time.monotonic() - began


@pytest.mark.parametrize("part", range(10))
def test_an_adder_killed_at_any_moment_leaves_nothing_visible_and_the_next_one_works(
    tmp_path: Path, seconds: float, part: int
) -> None:
    store, source = LocalStore(tmp_path / "store"), write_output(tmp_path / "source", FILES)
    with adder(store.root, source, "killed") as process:
        begin(process)
        timer = threading.Timer(seconds * (part + random.random()) / 10, process.send_signal, [signal.SIGKILL])
        timer.start()
        process.wait()
        timer.join()
    assert_nothing_half_made(store)
    if store.find(some_step("one").key) is None:
        with adder(store.root, source, "second") as process:
            out, _ = process.communicate("go\n")
        assert out == "worked\n"
    record = store.find(some_step("one").key)
    assert record
    store.fetch(record, tmp_path / "fetched")
    assert contents(tmp_path / "fetched") == FILES
    assert [path.name for path in (store.root / "work").iterdir() if record.label == "second"] == []


def test_of_two_processes_with_one_key_one_works_and_one_waits(tmp_path: Path) -> None:
    source = write_output(tmp_path / "source", FILES)
    processes = [adder(tmp_path / "store", source, label) for label in ("one", "two", "three")]
    for process in processes:
        begin(process)
    outputs = sorted(process.communicate()[0] for process in processes)
    assert outputs == ["waited\n", "waited\n", "worked\n"]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert_nothing_half_made(LocalStore(tmp_path / "store"))


def test_threads_that_add_without_a_lock_leave_one_whole_record(tmp_path: Path) -> None:
    store, names = LocalStore(tmp_path / "store"), ("one", "two", "three")
    roots = [write_output(tmp_path / name, {"name": name.encode(), "same": b"same"}) for name in names]
    records = [some_record(root, label=root.name) for root in roots]
    threads = [threading.Thread(target=store.add, args=each) for each in zip(records, roots, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.find(records[0].key) in records
    assert_nothing_half_made(store)

"""Tests of parallel work: its order, its failures, and the number of threads."""

import ctypes
import signal
import threading
from collections.abc import Iterator
from concurrent import futures
from threading import Lock
from typing import Any

import pytest

from enginery.core import threads
from enginery.core.threads import Stopped, in_order, raise_if_stopped, side_by_side
from tests.support.processes.switching import often_switching
from tests.support.waiting import wait_until

__all__ = ["often_switching"]


def wait_until_stopped() -> None:
    """Wait until the work of this thread has failed or was interrupted."""

    def is_stopped() -> bool:
        try:
            raise_if_stopped()
        except Stopped:
            return True
        return False

    wait_until(is_stopped)


def test_results_come_in_order_and_items_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(20):
            taken.append(number)
            yield number

    results = in_order(lambda number: number * 2, numbers(), threads=3)
    assert next(results) == 0
    assert len(taken) == 4
    assert list(results) == [number * 2 for number in range(1, 20)]


def test_the_first_failure_is_raised_and_no_more_items_start() -> None:
    begun: list[int] = []
    failed = threading.Event()

    def call(number: int) -> int:
        begun.append(number)
        if number == 0:
            failed.set()
            raise ValueError("no")
        failed.wait(60)
        return number

    with pytest.raises(ValueError, match="no"):
        list(in_order(call, range(100), threads=2))
    assert len(begun) <= 4


def test_one_item_needs_no_threads() -> None:
    assert side_by_side(lambda number: (number, threading.current_thread()), [1]) == [(1, threading.current_thread())]
    assert list(in_order(str, [1])) == ["1"]


def test_nothing_to_do_is_done_at_once() -> None:
    assert side_by_side(str, []) == []


def test_the_results_are_in_the_order_of_the_items_whoever_is_done_first() -> None:
    later = threading.Event()

    def call(number: int) -> int:
        if number == 0:
            assert later.wait(60)
        elif number == 5:
            later.set()
        return number * 2

    assert side_by_side(call, range(20), threads=2) == [number * 2 for number in range(20)]


def test_a_result_may_be_none_and_an_item_too() -> None:
    assert side_by_side(lambda item: item, [None, 1, None]) == [None, 1, None]


def test_the_first_failure_is_raised_unchanged_and_other_items_in_work_are_finished() -> None:
    ended: list[int] = []
    begun = threading.Event()

    def call(number: int) -> None:
        if number == 1:
            assert begun.wait(60)
            raise ValueError("the first") from KeyError("its cause")
        begun.set()
        wait_until_stopped()
        ended.append(number)
        raise ValueError("a later one")

    with pytest.raises(ValueError, match="the first") as caught:
        side_by_side(call, range(50), threads=2)
    assert isinstance(caught.value.__cause__, KeyError)
    assert ended == [0]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A signal that interrupts the main thread. The usual one is ignored in a background process."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_waits_for_items_in_work_and_starts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    ended: list[int] = []
    waiting = threading.Event()

    def wait(*args: Any, **options: Any) -> object:
        waiting.set()
        return futures.wait(*args, **options)

    monkeypatch.setattr(threads, "wait", wait)

    def call(number: int) -> None:
        begun.append(number)
        if number == 2:
            assert waiting.wait(60)  # all threads have begun
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        if number:
            wait_until_stopped()
        ended.append(number)

    with pytest.raises(KeyboardInterrupt):
        side_by_side(call, range(100), threads=2)
    assert sorted(ended) == sorted(begun) == [0, 1, 2]


@pytest.mark.usefixtures("often_switching")
def test_no_item_is_left_out_or_worked_on_twice() -> None:
    done: list[int] = []
    for _ in range(20):
        assert side_by_side(str, range(3000), threads=8) == [str(number) for number in range(3000)]
        side_by_side(done.append, range(100), threads=8)
    assert sorted(done) == sorted(list(range(100)) * 20)


def test_the_end_of_an_iterator_in_an_item_is_a_failure_like_others() -> None:
    with pytest.raises(StopIteration):
        side_by_side(lambda number: next(iter([number][number:])), range(10), threads=2)


def test_an_exception_that_another_thread_raises_ends_the_work_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancelled flow raises an exception in each thread that works on its steps."""
    monkeypatch.setattr(threads, "WAKE_SECONDS", 0.05)
    begun: list[int] = []
    ended: list[BaseException] = []

    def call(number: int) -> None:
        begun.append(number)
        if number:
            wait_until_stopped()

    def work() -> None:
        try:
            side_by_side(call, range(200), threads=2)
        except BaseException as error:  # noqa: BLE001  looked at below
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: len(begun) == 3)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(InterruptedError))
    thread.join(60)
    assert [type(error) for error in ended] == [InterruptedError]
    assert len(begun) == 3


@pytest.mark.parametrize("kind", ["side by side", "in order"])
def test_a_failure_ends_the_work_that_other_items_have_begun(kind: str) -> None:
    done: list[int] = []
    begun, watching, over = threading.Event(), threading.Event(), threading.Event()

    def step(number: int) -> None:
        begun.set()
        done.append(number)
        assert over.wait(60)

    def call(number: int) -> None:
        if number == 1:
            assert begun.wait(60)
            assert watching.wait(60)
            raise ValueError("no")
        if number == 2:
            watching.set()
            wait_until_stopped()
            over.set()
        elif kind == "in order":
            list(in_order(step, range(500), threads=2))
        else:
            side_by_side(step, range(500), threads=2)

    with pytest.raises(ValueError, match="no"):
        side_by_side(call, range(3), threads=3)
    assert len(done) <= 3


def test_work_after_a_failure_is_not_stopped_by_it() -> None:
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda number: 1 // number, range(10), threads=2)
    assert side_by_side(str, range(10), threads=2) == [str(number) for number in range(10)]
    assert list(in_order(str, range(3))) == ["0", "1", "2"]


def _most_at_once(wanted: int, *, threads: int, at_first: int, slow: float) -> int:
    """How many items were in work at the same time. The first items wait until `wanted` items are in work."""
    at_work, most, lock, enough = [0], [0], Lock(), threading.Event()

    def call(_: int) -> None:
        with lock:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])
            if at_work[0] >= wanted:
                enough.set()
        assert enough.wait(60)
        with lock:
            at_work[0] -= 1

    side_by_side(call, range(100), threads=threads, at_first=at_first, slow=slow)
    return most[0]


def test_items_that_are_done_quickly_are_left_to_the_first_threads() -> None:
    assert _most_at_once(2, threads=8, at_first=2, slow=600) == 2


def test_items_that_take_their_time_have_more_threads_join_up_to_the_most() -> None:
    assert _most_at_once(6, threads=6, at_first=1, slow=0.01) == 6


def test_no_more_threads_begin_than_there_may_be() -> None:
    assert _most_at_once(3, threads=3, at_first=8, slow=0.01) == 3

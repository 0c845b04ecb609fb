"""Tests of how servers say how long to wait, and of obeying them. No test waits: time is a number here."""

import pickle
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from enginery.core.errors import SourceError
from enginery.core.threads import side_by_side, sleep_unless_stopped
from enginery.sources.rate_limits import (
    LONGEST_SECONDS,
    MOST_REFUSALS,
    AskedToWaitError,
    Gate,
    asked_seconds,
    duration,
    gate_of,
    limit_in,
)
from enginery.sources.staging import ATTEMPTS, patiently
from tests.support.waiting import Clock

NOW = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)


def refused(seconds: float) -> AskedToWaitError:
    return AskedToWaitError(
        "the Hub refuses", subject="acme/tiny", remedy="set HF_TOKEN", seconds=seconds, waiting=f"waiting {seconds:g}"
    )


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "40"}, 40),
        ({"Retry-After": " 40 "}, 40),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "٤٠"}, None),
        ({"Retry-After": "Wed, 99 Foo 2026 12:00:00 GMT"}, None),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"RateLimit": '"api";r=17;t=55'}, None),
        ({"RateLimit": "nonsense"}, None),
        ({"RateLimit": '"api";r=0;t=-1'}, None),
        ({"RateLimit": f'"api";r=0;t={"9" * 5000}'}, None),
        ({"Retry-After": "3", "RateLimit": '"api";r=0;t=55'}, 3),
        ({"Retry-After": "soon", "RateLimit": '"api";r=0;t=55'}, 55),
    ],
)
def test_the_seconds_to_wait_are_read(headers: dict[str, str], seconds: float | None) -> None:
    assert asked_seconds(headers) == seconds


@pytest.mark.parametrize("digits", [20, 400, 5000])
def test_a_huge_number_of_seconds_is_more_than_anybody_waits(digits: int) -> None:
    asked = asked_seconds({"Retry-After": "9" * digits})
    assert asked is not None
    assert asked > LONGEST_SECONDS
    assert "more than a year" in duration(asked)
    assert str(refused(asked).final(0.0, 1))


def test_a_date_is_read_by_the_servers_own_clock() -> None:
    headers = {"Retry-After": format_datetime(NOW + timedelta(seconds=40), usegmt=True)}
    assert asked_seconds(headers | {"Date": format_datetime(NOW, usegmt=True)}) == 40
    past = {"Retry-After": format_datetime(NOW - timedelta(days=1), usegmt=True)}
    assert asked_seconds(past | {"Date": format_datetime(NOW, usegmt=True)}) == 0


def test_a_date_is_read_by_this_machines_clock_if_the_server_does_not_say_its_own() -> None:
    asked = asked_seconds({"Retry-After": format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)})
    assert asked == pytest.approx(3600, abs=60)


def test_the_limit_that_was_reached_is_named() -> None:
    policy = {"RateLimit-Policy": '"fixed window";"api";q=500;w=300'}
    assert limit_in({"RateLimit": '"api";r=0;t=55'} | policy) == "requests to its API: 500 in 5 min"
    assert limit_in({"RateLimit": '"resolvers";r=0;t=55'}) == "requests for files"
    assert limit_in({"RateLimit": '"other";r=0;t=55'}) == '"other"'
    assert limit_in({"RateLimit": '"api";r=3;t=55'} | policy) == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (40, "40 s"),
        (60, "1 min"),
        (90, "1 min 30 s"),
        (600, "10 min"),
        (86_400, "24 h"),
        (259_200, "3 days"),
    ],
)
def test_a_duration_is_told_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_server_is_obeyed_and_the_wait_is_told() -> None:
    clock, answers = Clock(), [refused(40), refused(41)]
    lines: list[str] = []

    def call() -> str:
        if answers:
            raise answers.pop(0)
        return "done"

    assert patiently(call, gate=Gate(clock, clock.sleep), log=lines.append) == "done"
    assert clock() == 81
    assert lines == ["waiting 40", "waiting 41"]


def test_all_requests_to_a_server_wait_together() -> None:
    clock, both_asked, both_wait = Clock(), threading.Barrier(2), threading.Barrier(2)
    lines: list[str] = []
    calls: list[tuple[str, float]] = []

    def sleep(seconds: float) -> None:
        until = clock() + seconds
        both_wait.wait()
        clock.now = until

    def call(name: str) -> None:
        calls.append((name, clock()))
        if (name, 40.0) not in calls:
            both_asked.wait()
            raise refused(40)

    gate = Gate(clock, sleep)
    threads = [
        threading.Thread(target=lambda name=name: patiently(lambda: call(name), gate=gate, log=lines.append))
        for name in ("a", "b")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(calls) == [("a", 0.0), ("a", 40.0), ("b", 0.0), ("b", 40.0)]
    assert lines == ["waiting 40"]


def test_a_request_that_was_not_refused_itself_waits_too() -> None:
    clock = Clock()
    gate = Gate(clock, clock.sleep)
    gate.close(40)
    assert patiently(clock, gate=gate) == 40


def test_the_failure_of_another_file_ends_a_wait() -> None:
    waits = threading.Event()

    def sleep(seconds: float) -> None:
        waits.set()
        sleep_unless_stopped(seconds)

    def download(name: str) -> None:
        if name == "bad":
            waits.wait()
            raise SourceError("is not there")
        patiently(Clock(), gate=gate)

    gate = Gate(sleep=sleep)
    gate.close(500)
    with pytest.raises(SourceError, match="is not there"):
        side_by_side(download, ["good", "bad"])


def test_a_server_has_one_gate() -> None:
    assert gate_of("https://one") is gate_of("https://one")
    assert gate_of("https://one") is not gate_of("https://two")


def test_a_longer_wait_than_the_limit_fails_at_once_and_says_until_when() -> None:
    clock = Clock()
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        raise refused(86_400)

    with pytest.raises(SourceError, match="waits 10 min at most") as caught:
        patiently(call, gate=Gate(clock, clock.sleep))
    assert (len(calls), clock()) == (1, 0)
    assert not caught.value.transient
    assert f"run it again after {datetime.now(UTC).astimezone() + timedelta(days=1):%Y-%m-%d}" in caught.value.remedy
    assert "set HF_TOKEN" in caught.value.remedy


def test_waits_that_are_longer_than_the_limit_together_end() -> None:
    clock = Clock()

    def call() -> None:
        raise refused(250)

    with pytest.raises(SourceError, match="has waited 8 min 20 s for 3 such answers, and gives up") as caught:
        patiently(call, gate=Gate(clock, clock.sleep))
    assert clock() == 500
    assert not caught.value.transient


def test_a_server_that_always_asks_for_a_short_wait_is_given_up() -> None:
    clock = Clock()
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        raise refused(1)

    with pytest.raises(SourceError, match="gives up"):
        patiently(call, gate=Gate(clock, clock.sleep))
    assert len(calls) == MOST_REFUSALS


def test_no_wait_is_an_ordinary_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    calls: list[int] = []
    monkeypatch.setattr("enginery.core.retry.sleep_unless_stopped", clock.sleep)

    def call() -> None:
        calls.append(1)
        raise refused(0)

    with pytest.raises(AskedToWaitError):
        patiently(call, gate=Gate(clock, clock.sleep))
    assert len(calls) == ATTEMPTS


def test_progress_gives_new_patience() -> None:
    clock = Clock()
    calls: list[int] = []

    def call() -> str:
        calls.append(1)
        if len(calls) <= 2 * MOST_REFUSALS:
            raise refused(LONGEST_SECONDS / 2)
        return "done"

    assert patiently(call, gate=Gate(clock, clock.sleep), reached=lambda: len(calls)) == "done"


def test_the_error_can_be_pickled() -> None:
    error = pickle.loads(pickle.dumps(refused(40)))
    assert (error.seconds, str(error)) == (40, str(refused(40)))

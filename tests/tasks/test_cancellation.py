"""Tests of how a flow learns that its run was cancelled, without a server."""

import threading
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Cancelling, Completed, Paused, Running, Suspended

from enginery.pipeline.tasks import cancellation
from enginery.pipeline.tasks.cancellation import CANCELLED, DELETED, RunCancelled, Watch, ends_when_cancelled
from tests.support.waiting import wait_until

BEGUN = threading.Event()


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (Cancelling(), CANCELLED),
        (Cancelled(), CANCELLED),
        (Running(), ""),
        (Paused(), ""),
        (Suspended(), ""),
        (Completed(), ""),
        (None, ""),
    ],
)
def test_a_run_ends_early_only_when_it_is_cancelled(state: State[None] | None, reason: str) -> None:
    client = Mock(**{"read_flow_run.return_value.state": state})
    assert Watch(uuid4())._find_reason(client) == reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ObjectNotFound(Exception()), DELETED),
        (httpx.ConnectError("connection refused"), ""),
        (httpx.ReadTimeout("timed out"), ""),
        (httpx.HTTPStatusError("503", request=Mock(), response=Mock()), ""),
    ],
)
def test_a_server_that_is_away_does_not_end_a_run(error: Exception, reason: str) -> None:
    client = Mock(**{"read_flow_run.side_effect": error})
    assert Watch(uuid4())._find_reason(client) == reason


@pytest.fixture
def in_a_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mock]:
    """This thread seems to work on a run, which is cancelled when its work has begun."""
    BEGUN.clear()
    states: dict[bool, State[None]] = {False: Running(), True: Cancelling()}
    client = Mock(**{"read_flow_run.side_effect": lambda _run: Mock(state=states[BEGUN.is_set()])})
    client.__enter__, client.__exit__ = Mock(return_value=client), Mock(return_value=None)
    monkeypatch.setattr(cancellation, "get_client", lambda **_: client)
    monkeypatch.setattr(cancellation, "POLL_SECONDS", 0.01)
    identifier = str(uuid4())
    monkeypatch.setattr("enginery.pipeline.tasks.cancellation.flow_run.get_id", lambda: identifier)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        yield client


def wait_for_ever() -> None:
    BEGUN.set()
    wait_until(lambda: False)


def undo_badly() -> None:
    try:
        wait_for_ever()
    except RunCancelled:
        raise RuntimeError("what was begun could not be undone") from None


@pytest.mark.usefixtures("in_a_run")
@pytest.mark.parametrize("work", [wait_for_ever, undo_badly])
def test_work_is_interrupted_and_its_run_ends_as_cancelled(
    work: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(cancellation, "run_log", lambda: lines.append)
    state: Any = ends_when_cancelled(work)()
    assert state.is_cancelled()
    assert lines[-1] == f"the run has ended early: {CANCELLED}; finished steps are kept"
    assert len(lines) == (1 if work is wait_for_ever else 2)


def test_a_run_that_a_worker_has_started_is_left_to_the_worker(in_a_run: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT__FLOW_RUN_ID", str(flow_run.get_id()))
    assert ends_when_cancelled(lambda: "done")() == "done"
    in_a_run.read_flow_run.assert_not_called()

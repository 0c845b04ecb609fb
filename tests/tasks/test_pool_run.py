"""Tests of the wait for a run on another machine: an unreachable server, and a state without a result."""

from pathlib import Path
from unittest.mock import create_autospec
from uuid import uuid4

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Cancelled, Cancelling, Crashed, Failed, Running, Scheduled

from enginery.core.errors import CommandError
from enginery.pipeline.flows.failures import failure, parts_of
from enginery.pipeline.tasks import pool_run
from enginery.pipeline.tasks.pool_run import PoolError, PoolRun, _cancel, _error_of, _Watch, patiently, run_to_end
from enginery.store import open_store


@pytest.fixture
def wanted(tmp_path: Path) -> PoolRun:
    return PoolRun(
        pool="h100",
        queue="default",
        name="tiny: a on h100",
        parameters={},
        key="0",
        store=open_store(str(tmp_path / "store")),
        wait_for_worker=1,
    )


@pytest.fixture
def run() -> FlowRun:
    return FlowRun(flow_id=uuid4(), name="tiny: a on h100")


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_run, "POLL_SECONDS", 0.0)


def refuse_connection() -> None:
    raise httpx.ConnectError("connection refused")


def answered(status: int) -> PrefectHTTPStatusError:
    request = httpx.Request("GET", "http://prefect/api")
    return PrefectHTTPStatusError("no", request=request, response=httpx.Response(status, request=request))


def test_a_server_that_comes_back_is_waited_for() -> None:
    answers = [httpx.ConnectError("refused"), answered(503), "here"]
    lines: list[str] = []

    def call() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    assert patiently(call, lines.append) == "here"
    assert lines == [f"Prefect's server does not answer: {why}; trying again" for why in ("refused", "no")]


def test_a_server_that_stays_away_ends_the_wait_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_run, "SERVER_PATIENCE_SECONDS", -1.0)
    with pytest.raises(PoolError, match="Prefect's server does not answer: connection refused") as caught:
        patiently(refuse_connection, print)
    assert "finished steps are kept" in caught.value.remedy


def test_what_a_server_refuses_is_not_asked_again() -> None:
    def call() -> None:
        raise answered(404)

    with pytest.raises(PrefectHTTPStatusError):
        patiently(call, print)


def test_the_error_of_a_run_is_the_one_it_raised(wanted: PoolRun, run: FlowRun) -> None:
    error = failure({"build a": CommandError("exit status 3")}, ["publish a"])
    found = _error_of(Failed(message="it failed", data=error), wanted, run)
    parts = parts_of(found)
    assert parts is not None
    assert list(parts.errors) == ["build a"]
    assert parts.skipped == ("publish a",)


@pytest.mark.parametrize("state", [Failed(message="build a: exit status 3"), Crashed(message="build a: exit status 3")])
def test_without_a_result_that_can_be_read_the_state_says_what_happened(
    state: State[object], wanted: PoolRun, run: FlowRun
) -> None:
    found = _error_of(state, wanted, run)
    assert isinstance(found, PoolError)
    assert found.problem == "build a: exit status 3"
    assert found.subject == "work pool h100"


def test_a_run_that_somebody_has_cancelled_is_reported_as_cancelled(wanted: PoolRun, run: FlowRun) -> None:
    assert "was cancelled" in _error_of(Cancelled(), wanted, run).problem


def test_a_run_that_cannot_be_cancelled_does_not_hide_what_has_ended_the_build(wanted: PoolRun) -> None:
    client, lines = create_autospec(SyncPrefectClient), list[str]()
    client.read_flow_runs.side_effect = httpx.ConnectError("connection refused")
    _cancel(wanted, client, lines.append)
    assert lines == ["the run tiny: a on h100 could not be cancelled, and goes on: connection refused"]


def test_a_build_that_is_interrupted_while_it_starts_a_run_cancels_what_the_server_has_begun(
    wanted: PoolRun, run: FlowRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = create_autospec(SyncPrefectClient)
    client.read_flow_runs.side_effect = [[], [run.model_copy(update={"state": Scheduled()})]]

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pool_run, "run_deployment", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_to_end(wanted, client, print)
    (cancelled,) = client.set_flow_run_state.call_args_list
    assert cancelled.args[0] == run.id
    assert cancelled.args[1].is_cancelled()


@pytest.mark.parametrize(("state", "ends"), [(Running(), "CRASHED"), (Cancelling(), "CANCELLED")])
def test_a_run_whose_machine_is_gone_is_ended_as_what_it_was_about_to_be(
    state: State[object], ends: str, wanted: PoolRun, run: FlowRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was being cancelled is not started again."""
    client, now = create_autospec(SyncPrefectClient), [state]
    client.read_flow_run.side_effect = lambda _: run.model_copy(update={"state": now[-1]})
    client.set_flow_run_state.side_effect = lambda _, ended, **__: now.append(ended)
    monkeypatch.setattr(pool_run, "GONE_SECONDS", -1.0)
    assert _Watch(wanted, run.id, client, print).until_it_ends().type.value == ends

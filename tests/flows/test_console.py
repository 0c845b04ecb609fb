"""Tests of how the command line's flow finds its Prefect server."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest
from prefect.context import refresh_global_settings_context
from prefect.exceptions import CancelledRun, ObjectNotFound, UnfinishedRun
from prefect.settings import PREFECT_API_URL

from enginery.core.errors import EngineryError, UsageError
from enginery.dev import services
from enginery.dev.ready import free_port
from enginery.pipeline.flows.console import _server, build_from_cli
from enginery.spec.spec import parse_spec
from tests.support.plans.plan import spec_data

ADDRESS = "http://127.0.0.1:4201/api"


def seen_by_a_thread() -> str | None:
    """The API address in a thread that inherits no context, as in Prefect's own threads."""
    with ThreadPoolExecutor(max_workers=1) as threads:
        address: str | None = threads.submit(PREFECT_API_URL.value).result()
    return address


@pytest.fixture(autouse=True)
def no_server_named(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    refresh_global_settings_context()
    yield
    monkeypatch.undo()
    refresh_global_settings_context()


def test_threads_of_prefects_own_use_the_local_server_too(monkeypatch: pytest.MonkeyPatch) -> None:
    running = services.Services(prefect_api=ADDRESS, prefect_ui="", s3_url="", triton_url="")
    monkeypatch.setattr(services, "status", lambda: running)
    with _server(print) as has_ui:
        assert has_ui
        assert seen_by_a_thread() == ADDRESS
    assert seen_by_a_thread() is None
    assert "PREFECT_API_URL" not in os.environ


def test_a_server_that_was_named_late_is_used_by_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", ADDRESS)
    with _server(print):
        assert seen_by_a_thread() == ADDRESS


def test_without_a_server_a_temporary_one_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(services, "status", lambda: None)
    with _server(lines.append) as has_ui:
        assert not has_ui
        assert os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert "temporary Prefect server" in lines[0]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (CancelledRun("The run has ended early."), "it was cancelled in Prefect"),
        (UnfinishedRun("Run is in CANCELLING state, its result is not available."), "it was cancelled in Prefect"),
        (ObjectNotFound(Exception(f"404 for {ADDRESS}/flow_runs/1/set_state")), "it was deleted in Prefect"),
    ],
)
def test_a_run_that_somebody_has_ended_in_prefect_ends_the_command_like_ctrl_c(
    error: Exception, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", ADDRESS)
    monkeypatch.setattr("enginery.pipeline.flows.console.build_model", Mock(side_effect=error))
    with pytest.raises(EngineryError, match=f"the run has ended early: {why}") as caught:
        build_from_cli(parse_spec(spec_data()))
    assert (caught.value.exit_code, "finished steps are kept" in caught.value.remedy) == (130, True)


def test_something_else_that_is_missing_in_prefect_is_no_end_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", ADDRESS)
    missing = ObjectNotFound(Exception(f"404 for {ADDRESS}/block_documents/1"))
    monkeypatch.setattr("enginery.pipeline.flows.console.build_model", Mock(side_effect=missing))
    with pytest.raises(ObjectNotFound):
        build_from_cli(parse_spec(spec_data()))


def test_a_server_that_does_not_answer_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"http://127.0.0.1:{free_port(0)}/api"
    monkeypatch.setenv("PREFECT_API_URL", address)
    with pytest.raises(UsageError, match="the Prefect server does not answer") as caught:
        build_from_cli(parse_spec(spec_data()))
    assert caught.value.subject.startswith(address)
    assert "PREFECT_API_URL" in caught.value.remedy

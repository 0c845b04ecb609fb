"""Runs the build flow for the command line: in this process, showing Enginery's log lines and not Prefect's."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import httpx
from prefect.client.orchestration import get_client
from prefect.context import refresh_global_settings_context
from prefect.exceptions import CancelledRun, ObjectNotFound, UnfinishedRun
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL

from enginery.cli.options import note
from enginery.core.errors import EngineryError, UsageError
from enginery.dev import in_environment, services
from enginery.pipeline import BuildSummary
from enginery.pipeline.flows.build import build_model
from enginery.pipeline.tasks.cancellation import CANCELLED, DELETED
from enginery.pipeline.tasks.progress import LOG_MARK
from enginery.spec import Spec

FLOW_RUNS = "/flow_runs/"
"""In the addresses of the API that are about a run."""
RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")


class RunEndedError(EngineryError):
    """Somebody has ended the run in Prefect. For a script, this is like Ctrl-C."""

    exit_code = 130


def build_from_cli(
    spec: Spec, *, store: str | None = None, pools: str | None = None, say: Callable[[str], None] = note
) -> BuildSummary:
    """Run the build flow in this process.

    The Prefect server is the one in `PREFECT_API_URL` or the Prefect profile, else that of `enginery dev up` if it
    runs, else a temporary one that Prefect starts.

    Args:
        spec: what to build.
        store: where step outputs live; the local store when left out.
        pools: a pools file, to have the targets built by the workers of a fleet.
        say: called with each line that is to be shown.

    Raises:
        EngineryError: the error of the flow; or the run was cancelled or deleted in Prefect; or its server does not
            answer.
    """
    with _server(say) as has_ui, _enginery_lines_shown(say):
        try:
            summary: BuildSummary = build_model(spec, store=store, pools=pools)
        except (CancelledRun, UnfinishedRun, ObjectNotFound) as error:  # unfinished: cancelled before it was Running
            if isinstance(error, ObjectNotFound) and FLOW_RUNS not in str(error.http_exc):
                raise
            why = DELETED if isinstance(error, ObjectNotFound) else CANCELLED
            remedy = "build again when you want the rest: finished steps are kept"
            raise RunEndedError(f"the run has ended early: {why}", subject=spec.name, remedy=remedy) from error
        except RuntimeError:
            _require_server()
            raise
        except httpx.TransportError as error:
            remedy = "start it, and build again: finished steps are kept"
            problem = f"the Prefect server went away during the build: {error}"
            raise EngineryError(problem, subject=str(PREFECT_API_URL.value()), remedy=remedy) from error
        finally:
            APILogWorker.drain_all()  # the server may be stopped as soon as this returns
    return summary if has_ui else summary.model_copy(update={"run_url": None})


@contextmanager
def _server(say: Callable[[str], None]) -> Iterator[bool]:
    """Choose the Prefect server; yield whether it still runs after the build."""
    # The environment may have been set after Prefect read its settings.
    address = os.environ.get("PREFECT_API_URL") or PREFECT_API_URL.value()
    if not address:
        running = services.status()
        address = running.prefect_api if running else None
    if not address:
        say("starting a temporary Prefect server (about 10 s; `enginery dev up` keeps one running)")
    settings = {"PREFECT_API_URL": address} if address else {"PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    with _prefect_set(settings):
        yield bool(address)


def _require_server() -> None:
    """Check the server after an error, because Prefect's own error is only a traceback.

    Raises:
        UsageError: when the server does not answer.
    """
    with get_client(sync_client=True) as client:
        error = client.api_healthcheck()
    if error:
        remedy = "start it, correct PREFECT_API_URL, or unset that: a temporary server is started then"
        raise UsageError(f"the Prefect server does not answer: {error}", subject=str(client.api_url), remedy=remedy)


@contextmanager
def _prefect_set(settings: Mapping[str, str]) -> Iterator[None]:
    """Apply Prefect settings to the whole process. Prefect's own threads do not see its `temporary_settings`."""
    try:
        with in_environment(settings):
            refresh_global_settings_context()
            yield
    finally:
        refresh_global_settings_context()


class EngineryLines(logging.Handler):
    """Shows the lines that Enginery logs, each with the name of its step."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Show the record if Enginery has logged it."""
        if getattr(record, LOG_MARK, False):
            step = getattr(record, "task_run_name", None)
            self.say(f"{step} | {record.getMessage()}" if step else record.getMessage())


@contextmanager
def _enginery_lines_shown(say: Callable[[str], None]) -> Iterator[None]:
    """Show Enginery's lines. Prefect's lines go only to its server."""
    handler = EngineryLines(say)
    loggers = [logging.getLogger(name) for name in RUN_LOGGERS]
    before = [logger.propagate for logger in loggers]
    consoles = [(console, console.level) for console in logging.getLogger().handlers]
    for logger in loggers:
        logger.propagate = False
        logger.addHandler(handler)
    for console, level in consoles:
        console.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        for console, level in consoles:
            console.setLevel(level)
        for logger, propagated in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.propagate = propagated

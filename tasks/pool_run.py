"""A run on the workers of a pool. It is started once, and again if its machine dies. It is cancelled with the build.

When a worker is killed, Prefect leaves its run in the state Running. So the process that works on a run holds a lock
in the store, and the build that waits for the run checks that the lock is held.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from uuid import UUID

import httpx
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import FlowRun, State, StateType, WorkerStatus
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Cancelled, Cancelling, Crashed

from enginery.core.errors import EngineryError
from enginery.core.progress import Log
from enginery.core.retry import Waits, retry
from enginery.pipeline.tasks.interrupt import at_work
from enginery.pipeline.tasks.progress import run_log
from enginery.store import Store

FLOW = "build-target"
POLL_SECONDS = 1.0
REPEAT_SECONDS = 60.0
"""How often a line about the same wait is logged."""
GONE_SECONDS = 30.0
"""How long the lock of a running run may be free. It is free for a moment when the run begins and when it ends."""
MAX_DEATHS = 3
"""After this many deaths the run itself is probably the cause, for example because it needs too much memory."""
MAX_RUNS = 1000
SERVER_PATIENCE_SECONDS = 600.0
LONGEST_WAIT_SECONDS = 30.0
T = TypeVar("T")


class PoolError(EngineryError):
    """A work pool could not be used, or a run on it did not finish."""


@dataclass(frozen=True)
class PoolRun:
    """A flow run to be started, and the pool for it.

    Attributes:
        pool: the work pool. Its deployment has the same name.
        key: identifies this work among all runs. With a number appended, it is Prefect's idempotency key.
        store: the store in which the run holds its lock.
        wait_for_worker: how many seconds the pool may be without a worker.
    """

    pool: str
    queue: str
    name: str
    parameters: dict[str, Any]
    key: str
    store: Store
    wait_for_worker: float


@task(name="on-pool", task_run_name="{wanted.name}", cache_policy=NO_CACHE, persist_result=False)
def on_pool(wanted: PoolRun) -> None:
    """Let the workers of a pool build targets."""
    with get_client(sync_client=True) as client, at_work():
        run_to_end(wanted, client, run_log())


def run_to_end(wanted: PoolRun, client: SyncPrefectClient, log: Log) -> None:
    """Start a run and wait for its end. If its machine dies, start the run again.

    A run that an earlier attempt of the build has started is found again. When the build is interrupted, the run is
    cancelled.

    Raises:
        EngineryError: the error of the run; or no worker took the run, it was cancelled, or it died too often.
    """
    for death in range(MAX_DEATHS):
        try:
            run = _find_or_start(wanted, client, log)
            ended = _Watch(wanted, run.id, client, log).until_it_ends()
        except BaseException:
            _cancel(wanted, client, log)
            raise
        if ended.type is StateType.COMPLETED:
            return
        if ended.type is not StateType.CRASHED:
            raise _error_of(ended, wanted, run)
        consequence = "starting it again" if death + 1 < MAX_DEATHS else "giving up"
        log(f"the run {run.name} died: {ended.message}; {consequence}")
    raise PoolError(
        f"the run {wanted.name} died {MAX_DEATHS} times, last with: {ended.message}",
        subject=f"work pool {wanted.pool}",
        remedy="read the logs of its workers; a machine that runs out of memory kills its runs like this",
    )


def lock_of_run(identifier: object) -> str:
    """The name of a run's lock. The process that works on the run holds it."""
    return f"run-{identifier}"


def find_run(key: str, client: SyncPrefectClient) -> FlowRun | None:
    """The flow run with this idempotency key."""
    wanted = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=[key]))
    return next(iter(client.read_flow_runs(flow_run_filter=wanted, limit=1)), None)


def is_deployed(deployment: str, client: SyncPrefectClient) -> bool:
    """Whether Prefect's server has a deployment, given as FLOW/DEPLOYMENT."""
    try:
        client.read_deployment_by_name(deployment)
    except ObjectNotFound:
        return False
    return True


def patiently(call: Callable[[], T], log: Log) -> T:
    """Call Prefect's server. If it does not answer, try again for ten minutes; the runs go on without it.

    Raises:
        PoolError: when the server still does not answer.
    """
    begun = time.monotonic()

    def attempt() -> T:
        try:
            return call()
        except (httpx.TransportError, PrefectHTTPStatusError) as error:
            if isinstance(error, PrefectHTTPStatusError) and not error.response.is_server_error:
                raise
            remedy = "start it, then build again: finished steps are kept"
            problem = f"Prefect's server does not answer: {str(error) or type(error).__name__}"
            raise PoolError(problem, remedy=remedy, transient=True) from error

    def too_long() -> bool:
        return time.monotonic() - begun > SERVER_PATIENCE_SECONDS

    return retry(attempt, give_up=too_long, waits=Waits(POLL_SECONDS, LONGEST_WAIT_SECONDS, 0.0), log=log)


def _find_or_start(wanted: PoolRun, client: SyncPrefectClient, log: Log) -> FlowRun:
    """The run of this work that has not ended, or a new one."""
    unfinished = _not_ended(wanted, lambda key: patiently(lambda: find_run(key, client), log))
    if unfinished is None:
        raise PoolError("the same targets were started too often", subject=wanted.name, remedy="start a new build")
    key, found = unfinished
    if found is None:
        return patiently(lambda: _start(wanted, key), log)
    log(f"waiting for {found.name}, which was started before")
    return found


def _not_ended(wanted: PoolRun, look: Callable[[str], FlowRun | None]) -> tuple[str, FlowRun | None] | None:
    """The first key whose run has not ended, with its run if it was started; None when all runs have ended."""
    for number in range(MAX_RUNS):
        key = f"{wanted.key}-{number}"
        found = look(key)
        if found is None or found.state is None or not found.state.is_final():
            return key, found
    return None


def _start(wanted: PoolRun, key: str) -> FlowRun:
    started = run_deployment(
        f"{FLOW}/{wanted.pool}",
        parameters=wanted.parameters,
        timeout=0,
        flow_run_name=wanted.name,
        idempotency_key=key,
        work_queue_name=wanted.queue,
    )
    return cast("FlowRun", started)  # a coroutine only inside an event loop


class _Watch:
    """Watches one run, and logs why it waits."""

    def __init__(self, wanted: PoolRun, identifier: UUID, client: SyncPrefectClient, log: Log) -> None:
        self.wanted, self.identifier, self.client, self.log = wanted, identifier, client, log
        self.is_at_work = wanted.store.watch(lock_of_run(identifier))
        self.since: dict[str, float] = {}
        self.logged: dict[str, float] = {}

    def until_it_ends(self) -> State[Any]:
        """Wait for the run's final state. When its machine has died, the run is set to Crashed or Cancelled."""
        while True:
            state = patiently(lambda: self.client.read_flow_run(self.identifier), self.log).state
            if state is not None and state.is_final():
                return state
            if state is None or state.is_scheduled() or state.is_pending():
                self._require_worker(state)
            elif state.is_running() or state.is_cancelling():
                self._require_alive(state)
            time.sleep(POLL_SECONDS)

    def _seconds(self, what: str, *, holds: bool) -> float:
        """For how many seconds the condition `what` has been true without a break; `holds` says if it is true now."""
        if not holds:
            self.since.pop(what, None)
            return 0.0
        return time.monotonic() - self.since.setdefault(what, time.monotonic())

    def _require_alive(self, state: State[Any]) -> None:
        self.since.pop("pending", None)
        if self._seconds("gone", holds=not self._seen_at_work()) > GONE_SECONDS:
            why = "its worker or its machine is gone"
            self._end(Cancelled(message=why) if state.is_cancelling() else Crashed(message=why))

    def _seen_at_work(self) -> bool:
        try:
            return self.is_at_work()
        except EngineryError as error:
            self._log_sometimes("store", f"the store does not answer: {error.problem}")
            return True

    def _require_worker(self, state: State[Any] | None) -> None:
        """Handle a run that has not begun: there is no worker, no worker is free, or the worker died at the start."""
        pool, patience = self.wanted.pool, self.wanted.wait_for_worker
        workers = patiently(lambda: self.client.read_workers_for_work_pool(pool), self.log)
        has_worker = any(worker.status is WorkerStatus.ONLINE for worker in workers)
        missing = self._seconds("missing", holds=not has_worker)
        if missing > patience:
            raise PoolError(
                f"no worker for {missing:.0f} s",
                subject=f"work pool {pool}",
                remedy=f"start one: prefect worker start --pool {pool}; then build again, finished steps are kept",
            )
        if "missing" in self.since:
            self._log_sometimes(
                "missing", f"work pool {pool} has no worker; waiting {patience - missing:.0f} s more for one"
            )
        elif self._seconds("pending", holds=state is not None and state.is_pending()) > patience:
            self._end(Crashed(message=f"its worker has not begun it for {patience:.0f} s"))
        else:
            self._log_sometimes("busy", f"waiting for a worker to begin {self.wanted.name}")

    def _end(self, state: State[Any]) -> None:
        patiently(lambda: self.client.set_flow_run_state(self.identifier, state, force=True), self.log)

    def _log_sometimes(self, what: str, line: str) -> None:
        """Log a line now, and at most once a minute."""
        if time.monotonic() - self.logged.get(what, -REPEAT_SECONDS) >= REPEAT_SECONDS:
            self.logged[what] = time.monotonic()
            self.log(line)


def _cancel(wanted: PoolRun, client: SyncPrefectClient, log: Log) -> None:
    """Cancel the unfinished run: its worker ends it. If no worker has taken it, it ends at once.

    The run is looked up again, because it may have been started although the server's answer was lost.
    """
    try:
        _, run = _not_ended(wanted, lambda key: find_run(key, client)) or (None, None)
        if run is not None:
            ended: State[Any] = Cancelled() if run.state is not None and run.state.is_scheduled() else Cancelling()
            ended.message = "The build it belongs to was ended."
            client.set_flow_run_state(run.id, ended)
    except httpx.HTTPError as error:  # the error that ended the build matters more
        log(f"the run {wanted.name} could not be cancelled, and goes on: {error}")


def _error_of(state: State[Any], wanted: PoolRun, run: FlowRun) -> EngineryError:
    """The error that the run raised, if this machine can read its result; else the message of its state."""
    if state.is_cancelled():
        problem = f"the run {wanted.name} was cancelled"
        return PoolError(problem, subject=f"work pool {wanted.pool}", remedy="build again: finished steps are kept")
    try:
        error = state.result(raise_on_failure=False, retry_result_failure=False)
    except Exception as unread:  # noqa: BLE001  after any error, the state's message is still there
        error = unread
    if isinstance(error, EngineryError):
        return error
    remedy = f"see the log of the run {run.name}"
    return PoolError(state.message or str(error), subject=f"work pool {wanted.pool}", remedy=remedy)

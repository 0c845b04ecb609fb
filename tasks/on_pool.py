"""The task that waits for a run on another machine."""

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client

from tasks.interrupt import at_work
from tasks.logs import run_log
from tasks.pool_run import PoolRun, see_through


@task(name="on-pool", task_run_name="{wanted.name}", cache_policy=NO_CACHE, persist_result=False)
def on_pool(wanted: PoolRun) -> None:
    """Have targets built by the workers of a pool."""
    with get_client(sync_client=True) as client, at_work():
        see_through(wanted, client, run_log())

"""The task that makes a toolchain ready, so that its minutes are seen as what they are."""

from prefect import task

from enginery import toolchains
from enginery.toolchains import ToolchainIdentity
from tasks.interrupt import at_work
from tasks.logs import run_log
from tasks.stage import FIRST_DELAY_SECONDS, JITTER, RETRIES, can_pass


@task(
    name="toolchain",
    task_run_name="toolchain {identity.name}",
    retries=RETRIES,
    retry_delay_seconds=FIRST_DELAY_SECONDS,
    retry_jitter_factor=JITTER,
    retry_condition_fn=can_pass,
    persist_result=False,
)
def prepare_toolchain(identity: ToolchainIdentity) -> None:
    """Create the environment that a release's commands run in, or find it ready."""
    with at_work():
        toolchains.ensure(identity, run_log())

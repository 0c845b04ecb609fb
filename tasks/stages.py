"""The task of each stage."""

from enginery.plan import PlannedStep
from enginery.progress import LogProgress, Several
from enginery.runner import Outcome
from enginery.steps import Stage
from enginery.store import Store
from tasks.logs import run_log
from tasks.progress import ArtifactProgress
from tasks.stage import StageTask, perform, stage_task


@stage_task(Stage.DOWNLOAD)
def download(planned: PlannedStep, store: Store) -> Outcome:
    """Fetch the weights."""
    return perform(planned, store)


@stage_task(Stage.CONVERT)
def convert(planned: PlannedStep, store: Store) -> Outcome:
    """Convert, and where asked quantize, the weights into a checkpoint."""
    return perform(planned, store)


@stage_task(Stage.BUILD)
def build(planned: PlannedStep, store: Store) -> Outcome:
    """Build the engine of one target."""
    return perform(planned, store)


@stage_task(Stage.VALIDATE)
def validate(planned: PlannedStep, store: Store) -> Outcome:
    """Ask the engine the spec's prompts and compare its answers."""
    return perform(planned, store)


@stage_task(Stage.PACKAGE)
def package(planned: PlannedStep, store: Store) -> Outcome:
    """Write the Triton model repository."""
    return perform(planned, store)


@stage_task(Stage.PUBLISH)
def publish(planned: PlannedStep, store: Store) -> Outcome:
    """Put the finished build into the registry."""
    log = run_log()
    with ArtifactProgress(f"{planned.label} {planned.step.recipe.parameters.get('model', '')}", log) as artifact:
        return perform(planned, store, Several(LogProgress(log), artifact))


@stage_task(Stage.ROLLOUT)
def rollout(planned: PlannedStep, store: Store) -> Outcome:
    """Load the build into the Triton servers."""
    return perform(planned, store)


STAGE_TASKS: dict[Stage, StageTask] = {
    Stage.DOWNLOAD: download,
    Stage.CONVERT: convert,
    Stage.BUILD: build,
    Stage.VALIDATE: validate,
    Stage.PACKAGE: package,
    Stage.PUBLISH: publish,
    Stage.ROLLOUT: rollout,
}

"""Small real steps for tests: each runs a shell script and stores its output."""

from enginery.pipeline.plan import PlannedStep
from enginery.store.steps import Command, Stage, Step


def shell_step(script: str, *, stage: Stage = Stage.BUILD, name: str = "x", **inputs: PlannedStep) -> PlannedStep:
    """A step that runs `script`, in which `$1` is the output and `$2`, `$3`… the inputs in their order."""
    places = tuple(f"{{{given}}}" for given in inputs)
    step = Step(
        stage=stage,
        inputs={given: planned.key for given, planned in inputs.items()},
        recipe=Command(argv=("sh", "-ec", script, "sh", "{output}", *places)),
    )
    return PlannedStep(id=f"{stage}/{name}", key=step.key, step=step, targets=(name,))

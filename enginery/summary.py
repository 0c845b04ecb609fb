"""What a build came to: which steps ran, which were already done, and what was published and put into service."""

from collections.abc import Mapping

from pydantic import JsonValue

from enginery.runner import Outcome
from enginery.steps import Frozen, Stage


class BuildSummary(Frozen):
    """The end of a run of the pipeline.

    Attributes:
        name: the model's name.
        steps: every step of the plan, in its order.
        seconds: how long the whole run took.
        run_url: the run's page in the Prefect UI, where there is a server with one.
    """

    name: str
    steps: tuple[Outcome, ...]
    seconds: float
    run_url: str | None = None

    @property
    def ran(self) -> tuple[Outcome, ...]:
        """The steps whose work was done in this run."""
        return tuple(step for step in self.steps if step.ran)

    def facts_of(self, stage: Stage) -> tuple[Mapping[str, JsonValue], ...]:
        """What the steps of a stage recorded, in the plan's order."""
        return tuple(step.facts for step in self.steps if step.stage is stage)

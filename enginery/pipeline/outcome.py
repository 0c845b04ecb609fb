"""What steps and builds came to: which steps ran, which were already done, and what was published and rolled out."""

from collections.abc import Mapping

from pydantic import JsonValue

from enginery.core.model import Frozen
from enginery.core.progress import Facts
from enginery.pipeline.plan import PlannedStep
from enginery.store import Stage, StepRecord


class Outcome(Frozen):
    """How a step came to be finished.

    Attributes:
        ran: whether the work was done now; False when the store already had it.
    """

    id: str
    key: str
    label: str
    stage: Stage
    ran: bool
    seconds: float
    size: int
    facts: Facts

    @classmethod
    def of(cls, planned: PlannedStep, record: StepRecord, *, ran: bool) -> "Outcome":
        """The outcome of a step whose record is `record`."""
        return cls(
            id=planned.id,
            key=planned.key,
            label=planned.label,
            stage=planned.step.stage,
            ran=ran,
            seconds=record.seconds,
            size=record.size,
            facts=record.facts,
        )


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

    @property
    def published(self) -> tuple[str, ...]:
        """The addresses of the published builds."""
        return tuple(str(facts["uri"]) for facts in self.facts_of(Stage.PUBLISH))

    @property
    def sentence(self) -> str:
        """One line for people."""
        if not self.ran:
            return f"{self.name}: nothing to do, all {len(self.steps)} steps were already done ({self.seconds:.1f} s)"
        return f"{self.name}: ran {len(self.ran)} of {len(self.steps)} steps in {self.seconds:.1f} s"

    def facts_of(self, stage: Stage) -> tuple[Mapping[str, JsonValue], ...]:
        """What the steps of a stage recorded, in the plan's order."""
        return tuple(step.facts for step in self.steps if step.stage is stage)

"""The error that ends a failed run, and the event that tells automations about it.

The error names every step that failed and every step that did not run because of that. Prefect's own events say only
that a run failed; ours also say what broke and what to do.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from prefect.client.schemas.objects import FlowRun, State
from prefect.events import emit_event
from prefect.flows import Flow
from prefect.utilities.urls import url_for

from enginery.core.errors import EngineryError
from enginery.core.model import Frozen
from enginery.store import Stage

PARTS = "parts_of_build"
REMEDY = "correct the causes and build again: finished steps are kept"
BUILD_FAILED = "enginery.build.failed"
ROLLOUT_FAILED = "enginery.rollout.failed"
RUN_FAILED = "enginery.run.failed"
BUILD_FLOWS = frozenset({"build-model", "build-target"})
ROLLOUT_FLOWS = frozenset({"roll-out", "roll-back"})
LABEL = re.compile(
    rf"^(?P<step>{'|'.join(stage.value for stage in Stage)}|toolchain)(?: (?P<target>[^\s:]+))?(?=:|$| \()"
)
"""The label of a step at the beginning of a failure's subject."""


class BuildError(EngineryError):
    """Several steps of a build failed.

    Attributes:
        errors: labels of steps -> why each failed.
    """

    def __init__(self, errors: Mapping[str, EngineryError], skipped: Sequence[str]) -> None:
        self.errors = dict(errors)
        listed = "".join(f"\n- {_with_label(label, error)}" for label, error in errors.items())
        super().__init__(f"{len(errors)} steps failed:{listed}{_skipped_line(skipped)}", remedy=REMEDY)
        codes = {error.exit_code for error in errors.values()}
        self.exit_code = codes.pop() if len(codes) == 1 else EngineryError.exit_code
        for error in errors.values():
            for note in getattr(error, "__notes__", ()):
                self.add_note(note)


class Parts(NamedTuple):
    """The failures inside the error of a build: the arguments of `failure`."""

    errors: Mapping[str, EngineryError]
    skipped: tuple[str, ...]


class StepFailure(Frozen):
    """One failure, as webhooks get it.

    Attributes:
        step: the stage, such as `build`; empty for a failure before any step.
        target: the target; empty for a step that several targets share.
    """

    step: str
    target: str
    problem: str
    remedy: str

    @property
    def where(self) -> str:
        """The step and the target, for people."""
        return f"{self.step} {self.target}".strip() or "before any step"


def failure(errors: Mapping[str, Exception], skipped: Sequence[str]) -> EngineryError:
    """The error that ends a build.

    `errors` has the error of each failed step, and `skipped` the steps that did not run because of them, all by their
    labels. The error of a single step keeps its class and exit code. Several errors become one that lists them.
    """
    known = {label: _as_enginery_error(error) for label, error in errors.items()}
    if len(known) > 1:
        ending: EngineryError = BuildError(known, skipped)
    else:
        ((label, error),) = known.items()
        ending = _with_label(label, error)
        ending.problem = f"{error.problem}{_skipped_line(skipped)}"
        ending.__cause__ = error
    vars(ending)[PARTS] = Parts(known, tuple(skipped))
    return ending


def parts_of(error: Exception) -> Parts | None:
    """The failures in the error of a build, on this or another machine; None for any other error."""
    found = vars(error).get(PARTS)
    return found if isinstance(found, Parts) else None


def announce_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Emit the event of a failed run. This is the `on_failure` hook of the flows."""
    error = state.result(raise_on_failure=False)
    if not isinstance(error, BaseException):
        error = RuntimeError(state.message or "it failed")
    emit_event(
        event_name(flow.name, step_failures(error)),
        resource={"prefect.resource.id": f"enginery.run.{flow_run.id}", "prefect.resource.name": flow_run.name},
        related=[{"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.role": "flow-run"}],
        payload=failure_payload(flow.name, flow_run, error),
    )


def _skipped_line(skipped: Sequence[str]) -> str:
    return f"\nnot run because of it: {', '.join(skipped)}" if skipped else ""


def step_failures(error: BaseException) -> tuple[StepFailure, ...]:
    """The failures in the error of a failed run."""
    if isinstance(error, BuildError):
        return tuple(
            _step_failure(label, one, about="" if one.subject == label else one.subject)
            for label, one in error.errors.items()
        )
    if isinstance(error, EngineryError):
        return (_step_failure(error.subject, error, about=LABEL.sub("", error.subject).lstrip(": ")),)
    return (StepFailure(step="", target="", problem=f"{type(error).__name__}: {error}", remedy="see the run's log"),)


def failure_payload(flow: str, run: FlowRun, error: BaseException) -> dict[str, Any]:
    """The content of the event for webhooks: the run, the model, the failures with remedies, and all this as text."""
    failures = step_failures(error)
    spec = run.parameters.get("spec")
    model = str(spec.get("name", "")) if isinstance(spec, Mapping) else str(getattr(spec, "name", ""))
    lines = [f"{one.where}: {one.problem}" + (f" -> {one.remedy}" if one.remedy else "") for one in failures]
    return {
        "flow": flow,
        "run": run.name,
        "url": url_for("flow-run", obj_id=run.id) or "",
        "model": model,
        "broke": [one.model_dump() for one in failures],
        "text": "\n".join([f"{flow} failed{f' for {model}' if model else ''} ({run.name})", *lines]),
    }


def event_name(flow: str, failures: tuple[StepFailure, ...]) -> str:
    """The event for the failures of a flow. A build whose rollout failed counts as a failed rollout."""
    if flow in ROLLOUT_FLOWS or any(one.step == Stage.ROLLOUT for one in failures):
        return ROLLOUT_FAILED
    return BUILD_FAILED if flow in BUILD_FLOWS else RUN_FAILED


def _with_label(label: str, error: EngineryError) -> EngineryError:
    """A copy of the error whose subject names the step. Some errors name it already."""
    copied = copy.copy(error)
    copied.subject = f"{label}: {error.subject}" if error.subject not in {"", label} else label
    return copied


def _as_enginery_error(error: Exception) -> EngineryError:
    """The error itself if it is an `EngineryError`; otherwise an `EngineryError` with its class and text."""
    if isinstance(error, EngineryError):
        return error
    unexpected = EngineryError(f"{type(error).__name__}: {error}", remedy="see the run's log")
    unexpected.__cause__ = error
    return unexpected


def _step_failure(label: str, error: EngineryError, *, about: str) -> StepFailure:
    """The failure of a step; `about` is the error's subject without the step."""
    found = LABEL.match(label)
    step, target = (found["step"], found["target"] or "") if found else ("", "")
    problem = f"{about}: {error.problem}" if about else error.problem
    return StepFailure(step=step, target=target, problem=problem, remedy=error.remedy)

"""An event for each failed run that says what broke and what to do, for automations to send on.

Prefect's own events say that a run failed. What failed in it is in the error, which only the run's process has.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefect.client.schemas.objects import FlowRun, State
from prefect.events import emit_event
from prefect.flows import Flow
from prefect.utilities.urls import url_for

from enginery.core.errors import EngineryError
from enginery.core.model import Frozen
from enginery.store import Stage

# One clear error for all that failed in a build.


class BuildError(EngineryError):
    """Several steps of a build failed.

    Attributes:
        errors: labels of steps -> why each failed.
    """

    def __init__(self, errors: Mapping[str, EngineryError], skipped: Sequence[str]) -> None:
        self.errors = dict(errors)
        listed = "".join(f"\n- {_at(label, error)}" for label, error in errors.items())
        super().__init__(f"{len(errors)} steps failed:{listed}{because_of_it(skipped)}", remedy=REMEDY)
        codes = {error.exit_code for error in errors.values()}
        self.exit_code = codes.pop() if len(codes) == 1 else EngineryError.exit_code
        for error in errors.values():
            for note in getattr(error, "__notes__", ()):
                self.add_note(note)


@dataclass(frozen=True)
class Parts:
    """What an error that ends a build was made of.

    Attributes:
        errors: labels of steps -> why each failed.
        skipped: labels of the steps that did not run because of them.
    """

    errors: Mapping[str, EngineryError]
    skipped: tuple[str, ...]


def parts_of(error: Exception) -> Parts | None:
    """What the error of a build was made of, also when it comes from another machine; None for any other error."""
    found = vars(error).get(PARTS)
    return found if isinstance(found, Parts) else None


PARTS = "parts_of_build"
REMEDY = "correct the causes and build again: finished steps are kept"


def because_of_it(skipped: Sequence[str]) -> str:
    """Names what did not run because something before it failed."""
    return f"\nnot run because of it: {', '.join(skipped)}" if skipped else ""


def failure(errors: Mapping[str, Exception], skipped: Sequence[str]) -> EngineryError:
    """The error to end a build with.

    A single one stays what it is, so that its class and exit code tell what happened; it names its step and what did
    not run because of it. Several become one that lists them.

    Args:
        errors: labels of steps -> why each failed; at least one.
        skipped: labels of the steps that did not run because of them.
    """
    known = {label: _understood(error) for label, error in errors.items()}
    told = BuildError(known, skipped) if len(known) > 1 else _single(*next(iter(known.items())), skipped)
    vars(told)[PARTS] = Parts(known, tuple(skipped))
    return told


def _single(label: str, error: EngineryError, skipped: Sequence[str]) -> EngineryError:
    told = _at(label, error)
    told.problem = f"{error.problem}{because_of_it(skipped)}"
    told.__cause__ = error
    return told


def _at(label: str, error: EngineryError) -> EngineryError:
    """A copy that names the step, once: some errors name it themselves."""
    told = copy.copy(error)
    told.subject = f"{label}: {error.subject}" if error.subject not in {"", label} else label
    return told


def _understood(error: Exception) -> EngineryError:
    """An error of ours as it is; anything else as an error that says what it is."""
    if isinstance(error, EngineryError):
        return error
    unforeseen = EngineryError(f"{type(error).__name__}: {error}", remedy="see the run's log")
    unforeseen.__cause__ = error
    return unforeseen


BUILD_FAILED = "enginery.build.failed"
ROLLOUT_FAILED = "enginery.rollout.failed"
RUN_FAILED = "enginery.run.failed"
BUILDING = frozenset({"build-model", "build-target"})
ROLLING_OUT = frozenset({"roll-out", "roll-back"})
LABEL = re.compile(
    rf"^(?P<step>{'|'.join(stage.value for stage in Stage)}|toolchain)(?: (?P<target>[^\s:]+))?(?=:|$| \()"
)
"""The name of a step for people, as failures begin with it."""


class Breakage(Frozen):
    """One thing that broke.

    Attributes:
        step: the stage, such as `build`; empty where it was before any step.
        target: the target; empty where several share the step.
        problem: what happened.
        remedy: what to do.
    """

    step: str
    target: str
    problem: str
    remedy: str


def breakages(error: BaseException) -> tuple[Breakage, ...]:
    """What broke, as a failed run's error tells it."""
    if isinstance(error, BuildError):
        return tuple(
            _breakage(label, one, about="" if one.subject == label else one.subject)
            for label, one in error.errors.items()
        )
    if isinstance(error, EngineryError):
        return (_breakage(error.subject, error, about=LABEL.sub("", error.subject).lstrip(": ")),)
    return (Breakage(step="", target="", problem=f"{type(error).__name__}: {error}", remedy="see the run's log"),)


def _breakage(label: str, error: EngineryError, *, about: str) -> Breakage:
    """An error of a step; `about` is what it happened to, besides the step."""
    found = LABEL.match(label)
    step, target = (found["step"], found["target"] or "") if found else ("", "")
    problem = f"{about}: {error.problem}" if about else error.problem
    return Breakage(step=step, target=target, problem=problem, remedy=error.remedy)


def failure_payload(flow: str, run: FlowRun, error: BaseException) -> dict[str, Any]:
    """What a webhook is sent: the run, the model, what broke, what to do, and the same as one text."""
    broke = breakages(error)
    model = _model(run.parameters)
    lines = [f"{_named(one)}: {one.problem}" + (f" -> {one.remedy}" if one.remedy else "") for one in broke]
    return {
        "flow": flow,
        "run": run.name,
        "url": url_for("flow-run", obj_id=run.id) or "",
        "model": model,
        "broke": [one.model_dump() for one in broke],
        "text": "\n".join([f"{flow} failed{f' for {model}' if model else ''} ({run.name})", *lines]),
    }


def _named(one: Breakage) -> str:
    return " ".join(word for word in (one.step, one.target) if word) or "before any step"


def _model(parameters: Mapping[str, Any] | None) -> str:
    spec = (parameters or {}).get("spec")
    return str(spec.get("name", "")) if isinstance(spec, Mapping) else str(getattr(spec, "name", ""))


def event_name(flow: str, broke: tuple[Breakage, ...]) -> str:
    """Which event a failure is: a build whose rollout failed is a failed rollout."""
    if flow in ROLLING_OUT or any(one.step == Stage.ROLLOUT for one in broke):
        return ROLLOUT_FAILED
    return BUILD_FAILED if flow in BUILDING else RUN_FAILED


def announce_failure(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Emit the event of a failed run: a flow's `on_failure` hook."""
    error = state.result(raise_on_failure=False)
    if not isinstance(error, BaseException):
        error = RuntimeError(state.message or "it failed")
    emit_event(
        event_name(flow.name, breakages(error)),
        resource={"prefect.resource.id": f"enginery.run.{flow_run.id}", "prefect.resource.name": flow_run.name},
        related=[{"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.role": "flow-run"}],
        payload=failure_payload(flow.name, flow_run, error),
    )

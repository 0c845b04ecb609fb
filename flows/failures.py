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
BUILDING = frozenset({"build-model", "build-target"})
ROLLING_OUT = frozenset({"roll-out", "roll-back"})
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
        listed = "".join(f"\n- {_at(label, error)}" for label, error in errors.items())
        super().__init__(f"{len(errors)} steps failed:{listed}{_skipped_line(skipped)}", remedy=REMEDY)
        codes = {error.exit_code for error in errors.values()}
        self.exit_code = codes.pop() if len(codes) == 1 else EngineryError.exit_code
        for error in errors.values():
            for note in getattr(error, "__notes__", ()):
                self.add_note(note)


class Parts(NamedTuple):
    """The failures that the error of a build is made of: as given to `failure`."""

    errors: Mapping[str, EngineryError]
    skipped: tuple[str, ...]


class Breakage(Frozen):
    """One failure.

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
        """Its step, for people."""
        return f"{self.step} {self.target}".strip() or "before any step"


def failure(errors: Mapping[str, Exception], skipped: Sequence[str]) -> EngineryError:
    """The error to end a build with.

    A single error keeps its class and exit code. It gets the label of its step, and of the `skipped` ones that did not
    run because of it. Several errors become one that lists them.
    """
    known = {label: _as_ours(error) for label, error in errors.items()}
    if len(known) > 1:
        ending: EngineryError = BuildError(known, skipped)
    else:
        ((label, error),) = known.items()
        ending = _at(label, error)
        ending.problem = f"{error.problem}{_skipped_line(skipped)}"
        ending.__cause__ = error
    vars(ending)[PARTS] = Parts(known, tuple(skipped))
    return ending


def parts_of(error: Exception) -> Parts | None:
    """The failures in the error of a build, also of one on another machine; None for any other error."""
    found = vars(error).get(PARTS)
    return found if isinstance(found, Parts) else None


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


def _skipped_line(skipped: Sequence[str]) -> str:
    return f"\nnot run because of it: {', '.join(skipped)}" if skipped else ""


def breakages(error: BaseException) -> tuple[Breakage, ...]:
    """The failures in the error of a failed run."""
    if isinstance(error, BuildError):
        return tuple(
            _breakage(label, one, about="" if one.subject == label else one.subject)
            for label, one in error.errors.items()
        )
    if isinstance(error, EngineryError):
        return (_breakage(error.subject, error, about=LABEL.sub("", error.subject).lstrip(": ")),)
    return (Breakage(step="", target="", problem=f"{type(error).__name__}: {error}", remedy="see the run's log"),)


def failure_payload(flow: str, run: FlowRun, error: BaseException) -> dict[str, Any]:
    """The content of the event for webhooks: the run, the model, the failures with remedies, and all of it as text."""
    broke = breakages(error)
    spec = run.parameters.get("spec")
    model = str(spec.get("name", "")) if isinstance(spec, Mapping) else str(getattr(spec, "name", ""))
    lines = [f"{one.where}: {one.problem}" + (f" -> {one.remedy}" if one.remedy else "") for one in broke]
    return {
        "flow": flow,
        "run": run.name,
        "url": url_for("flow-run", obj_id=run.id) or "",
        "model": model,
        "broke": [one.model_dump() for one in broke],
        "text": "\n".join([f"{flow} failed{f' for {model}' if model else ''} ({run.name})", *lines]),
    }


def event_name(flow: str, broke: tuple[Breakage, ...]) -> str:
    """The event for a failure. A build whose rollout failed is a failed rollout."""
    if flow in ROLLING_OUT or any(one.step == Stage.ROLLOUT for one in broke):
        return ROLLOUT_FAILED
    return BUILD_FAILED if flow in BUILDING else RUN_FAILED


def _at(label: str, error: EngineryError) -> EngineryError:
    """A copy that names the step. Some errors name it already."""
    copied = copy.copy(error)
    copied.subject = f"{label}: {error.subject}" if error.subject not in {"", label} else label
    return copied


def _as_ours(error: Exception) -> EngineryError:
    """An error of ours as it is; anything else as an error that says what it is."""
    if isinstance(error, EngineryError):
        return error
    unforeseen = EngineryError(f"{type(error).__name__}: {error}", remedy="see the run's log")
    unforeseen.__cause__ = error
    return unforeseen


def _breakage(label: str, error: EngineryError, *, about: str) -> Breakage:
    """The failure of a step; `about` is the error's subject without the step."""
    found = LABEL.match(label)
    step, target = (found["step"], found["target"] or "") if found else ("", "")
    problem = f"{about}: {error.problem}" if about else error.problem
    return Breakage(step=step, target=target, problem=problem, remedy=error.remedy)

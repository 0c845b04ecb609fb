"""What builds and release watches show in the Prefect UI as artifacts.

A build shows its plan, the answers, the gates, the published builds and where one of them serves. A release watch
shows its verdicts, the builds it started, and a comparison for each finished build. Artifacts only show what the
records have. They are sent in the background, so that no step waits for them.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from prefect.artifacts import Artifact, LinkArtifact, MarkdownArtifact, TableArtifact
from prefect.client.orchestration import get_client
from prefect.events import emit_event
from prefect.runtime import flow_run

from enginery.builds import GateReport, ValidationReport, gate_rows, read_gates, read_report
from enginery.pipeline import (
    Outcome,
    Plan,
    PlannedTarget,
    WatchReport,
    markdown_table,
    promotion_markdown,
    verdict_rows,
)
from enginery.pipeline.tasks.progress import artifact_key
from enginery.store import Stage, StepRecord, Store

KEY_DIGITS = 12
VERDICTS_KEY = "release-verdicts"
REBUILDS_KEY = "release-rebuilds"
GATES_EVENT = "enginery.gates"
"""Followed by the worst verdict: `enginery.gates.fail`."""

Report = TypeVar("Report")
TargetGates = tuple[str, GateReport]
"""The name of a target, and the results of its gates."""


@contextmanager
def sending() -> Iterator[Callable[[Sequence[Artifact]], None]]:
    """Yield a function that sends artifacts of the current run in the background.

    The end of the context waits until all are sent, and raises the first error. After an interrupt it does not wait.
    """
    threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="artifacts")
    sent: list[Future[None]] = []
    try:
        yield lambda artifacts: sent.append(threads.submit(copy_context().run, _create_all, artifacts))
    except BaseException as error:
        interrupted = not isinstance(error, Exception)
        threads.shutdown(wait=not interrupted, cancel_futures=interrupted)
        raise
    threads.shutdown()
    for future in sent:
        future.result()


def _create_all(artifacts: Sequence[Artifact]) -> None:
    asyncio.run(_create(artifacts))


async def _create(artifacts: Sequence[Artifact]) -> None:
    async with get_client() as client:
        await asyncio.gather(*(artifact.acreate(client) for artifact in artifacts))


def plan_artifacts(plan: Plan, done: Mapping[str, StepRecord]) -> list[Artifact]:
    """The plan as a table, and its notes."""
    name = plan.spec.name
    rows: list[dict[str, Any]] = [
        {
            "step": planned.label,
            "target": ", ".join(planned.targets),
            "status": "cached" if planned.key in done else "run",
            "runs on": planned.step.runs_on,
            "key": planned.key[:KEY_DIGITS],
        }
        for planned in plan.steps
    ]
    table = TableArtifact(key=artifact_key("plan", name), table=rows, description=f"The steps of **{name}**")
    head = ("target", "GPU", "backend", "release", "precision", "build")
    rows_of_targets = [(t.name, t.gpu, t.backend, t.release, t.precision, f"`{t.build_id}`") for t in plan.targets]
    notes = [f"# Plan of {name}", *markdown_table(head, rows_of_targets), "", *(f"- {note}" for note in plan.notes)]
    return [table, MarkdownArtifact(key=artifact_key("plan-notes", name), markdown="\n".join(notes))]


def validation_artifacts(plan: Plan, store: Store, skipped: Collection[str]) -> list[Artifact]:
    """The reports of all finished validations. `skipped` has the ids of steps that did not run."""
    found = _reports(plan, store, Stage.VALIDATE, skipped, read_report)
    return [_validation_artifact(plan.spec.name, target, report) for target, report in found]


def gate_artifacts(plan: Plan, reports: Sequence[TargetGates]) -> list[Artifact]:
    """A table of the gates of each target: verdicts, figures and limits."""
    return [
        TableArtifact(
            key=artifact_key("gates", plan.spec.name, target),
            table=[row for result in report.results for row in gate_rows(result)],
            description=f"Gates of **{plan.spec.name}** for **{target}**: **{report.verdict}**"
            + ("" if report.passed else " (not published)"),
        )
        for target, report in reports
    ]


def gate_reports(plan: Plan, store: Store, skipped: Collection[str]) -> list[TargetGates]:
    """The target and the report of each finished gates step. `skipped` has the ids of steps that did not run."""
    return _reports(plan, store, Stage.GATES, skipped, read_gates)


def announce_gates(plan: Plan, reports: Sequence[TargetGates]) -> None:
    """Emit an event for each target, so that automations can act on verdicts."""
    for target, report in reports:
        emit_event(
            f"{GATES_EVENT}.{report.verdict}",
            resource={"prefect.resource.id": f"enginery.gates.{plan.spec.name}.{target}"},
            related=[
                {"prefect.resource.id": f"prefect.flow-run.{flow_run.get_id()}", "prefect.resource.role": "flow-run"}
            ],
            payload={
                "model": plan.spec.name,
                "target": target,
                "passed": report.passed,
                "gates": [result.model_dump(mode="json") for result in report.results],
                "text": "\n".join(result.told for result in report.results),
            },
        )


def _reports(
    plan: Plan, store: Store, stage: Stage, skipped: Collection[str], read: Callable[[Path], Report]
) -> list[tuple[str, Report]]:
    """The target and the report of each finished step of a stage."""
    found: list[tuple[str, Report]] = []
    for planned in plan.steps:
        wanted = planned.step.stage is stage and planned.id not in skipped
        record = store.find(planned.key) if wanted else None
        if record is None:
            continue
        with TemporaryDirectory(prefix="enginery-") as scratch:
            store.fetch(record, Path(scratch) / "report")
            report = read(Path(scratch) / "report")
        found += [(target, report) for target in planned.targets]
    return found


def _validation_artifact(model: str, target: str, report: ValidationReport) -> Artifact:
    """A table of the prompts that a target's engine was given, the expected answers, and its own answers."""
    rows: list[dict[str, Any]] = [
        {
            "prompt": result.question,
            "expected": ", ".join(f"{kind} {text!r}" for kind, text in result.expected.items()) or "anything",
            "got": result.got,
            "passed": "yes" if result.passed else f"no: {result.reason}",
        }
        for result in report.results
    ]
    verdict = "passed" if report.passed else "**failed**"
    return TableArtifact(
        key=artifact_key("validation", model, target),
        table=rows,
        description=f"Validation of **{model}** for **{target}**: {verdict}",
    )


def build_artifacts(plan: Plan, outcomes: Mapping[str, Outcome]) -> list[Artifact]:
    """The published builds as text and as a table, and where one of them serves."""
    name = plan.spec.name
    published = [target for target in plan.targets if f"{Stage.PUBLISH}/{target.name}" in outcomes]
    rows = [_build_row(plan, target, outcomes) for target in published]
    if not rows:
        return []
    text = [f"# Published builds of {name}", "", *(f"- **{row['target']}**: `{row['uri']}`" for row in rows)]
    builds: list[Artifact] = [
        MarkdownArtifact(key=artifact_key("builds", name), markdown="\n".join(text)),
        TableArtifact(key=artifact_key("builds-table", name), table=rows, description=f"Builds of **{name}**"),
    ]
    return builds + _serving_links(plan, outcomes)


def _build_row(plan: Plan, target: PlannedTarget, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    published = outcomes[f"{Stage.PUBLISH}/{target.name}"]
    builds = (step for step in plan.steps if step.step.stage is Stage.BUILD and target.name in step.targets)
    built = next((outcomes[step.id] for step in builds if step.id in outcomes), None)  # targets may share a step
    return {
        "target": target.name,
        "build": target.build_id,
        "precision": target.precision,
        "engine bytes": built.size if built else None,
        "status": "published now" if published.ran else "was published",
        "uri": str(published.facts.get("uri", "")),
    }


def _serving_links(plan: Plan, outcomes: Mapping[str, Outcome]) -> list[Artifact]:
    rolled_out = [outcome for outcome in outcomes.values() if outcome.stage is Stage.ROLLOUT]
    if not rolled_out or plan.spec.rollout is None:
        return []
    name = plan.spec.name
    return [
        LinkArtifact(
            key=artifact_key("serving", name, str(number)),
            link=f"{endpoint.rstrip('/')}/v2/models/ensemble",
            link_text=f"{name} at {endpoint}",
            description=f"**{name}** serves here; POST a prompt to `/v2/models/ensemble/generate`",
        )
        for number, endpoint in enumerate(plan.spec.rollout.endpoints, start=1)
    ]


def watch_artifacts(report: WatchReport) -> list[Artifact]:
    """The artifacts of one run of the release watch."""
    found: list[Artifact] = [
        TableArtifact(
            key=VERDICTS_KEY, table=verdict_rows(report.verdicts), description="What new releases mean for each target"
        )
    ]
    if report.rebuilds:
        rows = [run.model_dump(mode="json", exclude={"key"}) for run in report.rebuilds]
        found.append(TableArtifact(key=REBUILDS_KEY, table=rows, description="The builds that the verdicts call for"))
    return found + [
        MarkdownArtifact(key=artifact_key("comparison", one.spec, one.target), markdown=promotion_markdown(one))
        for one in report.promotions
    ]

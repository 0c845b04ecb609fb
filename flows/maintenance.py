"""Upkeep of a registry as Prefect flows: one removes old builds, and one checks all published files."""

import os
from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import TableArtifact
from prefect.runtime import flow_run
from pydantic import Field

from enginery.core.errors import RegistryError, UsageError
from enginery.core.progress import LogProgress
from enginery.core.text import human_bytes
from enginery.pipeline.flows.failures import announce_failure
from enginery.pipeline.tasks.cancellation import ends_when_cancelled
from enginery.pipeline.tasks.progress import artifact_key, run_log
from enginery.registry import Audit, Pruning, Registry, Retention, audit, prune


def _run_name() -> str:
    """A name such as `prune s3://engines/prod`."""
    given = flow_run.get_parameters()
    kind = "prune" if "dry_run" in given else "audit"
    return f"{kind} {given.get('registry') or os.environ.get('ENGINERY_REGISTRY', '')}".strip()


@flow(
    name="prune",
    flow_run_name=_run_name,
    description="Remove old builds that no channel needs, and files that crashed publishers have left.",
    on_failure=[announce_failure],
)
@ends_when_cancelled
def prune_registry(
    registry: str | None = None,
    model: str | None = None,
    keep: Annotated[int, Field(ge=0)] = 3,
    days: Annotated[float, Field(ge=0)] = 30.0,
    dry_run: bool = True,  # noqa: FBT001, FBT002  a field of the form
) -> Pruning:
    """Remove old builds from a registry.

    Args:
        registry: the registry, s3://bucket/prefix; the worker's ENGINERY_REGISTRY when left out.
        model: only this model's builds; those of all models when left out.
        keep: this many builds of each target stay, the newest.
        days: builds that were published in the last so many days stay.
        dry_run: only report what would be removed.

    Raises:
        EngineryError: when the registry cannot be used.
    """
    log = run_log()
    done = prune(_opened(registry), Retention(keep=keep, days=days), model=model, dry_run=dry_run, log=log)
    pruning_artifact(done).create()
    log(done.sentence)
    return done


@flow(
    name="audit",
    flow_run_name=_run_name,
    description="Compare every byte of every published build with its manifest, and check every channel.",
    on_failure=[announce_failure],
)
@ends_when_cancelled
def audit_registry(registry: str | None = None, model: str | None = None) -> Audit:
    """Compare all published builds with their manifests.

    Args:
        registry: the registry, s3://bucket/prefix; the worker's ENGINERY_REGISTRY when left out.
        model: only this model's builds; those of all models when left out.

    Raises:
        RegistryError: when something is damaged, or the registry cannot be read.
    """
    log = run_log()
    found = audit(_opened(registry), model, LogProgress(log))
    audit_artifact(found).create()
    if found.damaged:
        first = found.problems[0]
        problem = f"{found.sentence}; the first: {first.subject}: {first.problem}"
        raise RegistryError(problem, subject=found.registry, remedy=first.remedy)
    log(found.sentence)
    return found


def _opened(address: str | None) -> Registry:
    chosen = address or os.environ.get("ENGINERY_REGISTRY")
    if not chosen:
        remedy = "give the parameter registry, or set ENGINERY_REGISTRY where the worker runs"
        raise UsageError("no registry is named", remedy=remedy)
    return Registry(chosen)


def pruning_artifact(done: Pruning) -> TableArtifact:
    """A table of the builds that are removed or kept, with the reasons."""
    rows: list[dict[str, Any]] = [
        {
            "fate": verdict.fate,
            "what": verdict.kind,
            "name": verdict.name,
            "target": verdict.target,
            "since": f"{verdict.since:%Y-%m-%d %H:%M}",
            "size": human_bytes(verdict.size),
            "why": verdict.reason,
        }
        for verdict in sorted(done.verdicts, key=lambda verdict: verdict.fate == "stays")
    ]
    return TableArtifact(key=artifact_key("prune", done.registry), table=rows, description=f"**{done.sentence}**")


def audit_artifact(found: Audit) -> TableArtifact:
    """A table of the problems; empty if there are none."""
    rows: list[dict[str, Any]] = [problem.model_dump() for problem in found.problems]
    return TableArtifact(key=artifact_key("audit", found.registry), table=rows, description=f"**{found.sentence}**")

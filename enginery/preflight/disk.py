"""Whether the disk has room for all that a plan still has to make."""

import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from enginery.errors import PlanError
from enginery.findings import Finding, stopping, warning
from enginery.home import store_dir
from enginery.plan import Plan
from enginery.units import human_bytes


def require_room(plan: Plan, done: Collection[str], store: str | None) -> None:
    """Refuse to begin what the disk has no room for, unless the spec accepts that.

    Args:
        plan: the plan.
        done: the keys of the steps that are done.
        store: what `open_store` takes.

    Raises:
        PlanError: with the figures.
    """
    found = stopping(disk_findings(plan, done, local_place(store)), plan.spec.force)
    if found:
        raise PlanError([str(finding) for finding in found], subject=plan.spec.name)


def local_place(store: str | None) -> Path:
    """The directory of this machine that a store fills; one in S3 has a local one in front."""
    return store_dir() if store is None or store.startswith("s3://") else Path(store).expanduser().absolute()


def disk_findings(plan: Plan, done: Collection[str], place: Path) -> Iterator[Finding]:
    """Warn when what is to be made does not fit on a disk.

    Args:
        plan: the plan; model repositories are not counted, their files are links.
        done: the keys of the steps that are done.
        place: a directory on that disk, which need not exist yet.
    """
    need = sum(planned.estimated_bytes for planned in plan.steps if planned.key not in done)
    free = shutil.disk_usage(_existing(place)).free
    if need > free:
        problem = f"the steps to run make about {human_bytes(need)}; the disk of {place} has {human_bytes(free)} free"
        yield warning("W203", "targets", problem, "make room, or set ENGINERY_HOME or --store to a larger disk")


def _existing(place: Path) -> Path:
    return next(parent for parent in (place, *place.parents) if parent.exists())

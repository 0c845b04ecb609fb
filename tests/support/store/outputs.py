"""Invented step outputs and records, for tests of the store."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from enginery.core import __version__
from enginery.store import digest_output
from enginery.store.steps import Call, Stage, Step, StepRecord

FILES: Mapping[str, bytes] = {"config.json": b"{}", "rank0/model.safetensors": b"weights" * 1000, "empty": b""}


def some_step(name: str = "one") -> Step:
    """A step whose key depends on `name`."""
    return Step(stage=Stage.BUILD, recipe=Call(function="tests.make", version=1, parameters={"name": name}))


def write_output(root: Path, files: Mapping[str, bytes] = FILES) -> Path:
    """Write `files` under `root`."""
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def some_record(root: Path, name: str = "one", *, label: str = "build one") -> StepRecord:
    """The record of a step whose output is `root`."""
    step = some_step(name)
    return StepRecord(
        key=step.key,
        step=step,
        label=label,
        files=digest_output(root),
        started=datetime(2026, 11, 1, tzinfo=UTC),
        seconds=1.5,
        host="here",
        enginery=__version__,
    )


def contents(root: Path) -> dict[str, bytes]:
    """Every file under `root`."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}

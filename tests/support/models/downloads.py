"""Running the download step outside a plan."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from enginery.core.progress import Facts, NoProgress
from enginery.sources import download, parameters, resolve
from enginery.spec.spec import Source
from enginery.store.context import StepContext


def run_download(wanted: Mapping[str, JsonValue], output: Path, lines: list[str] | None = None) -> Facts:
    """Run the download step with these parameters. Its log lines are added to `lines`."""
    output.mkdir(parents=True, exist_ok=True)
    log = [] if lines is None else lines
    return download(
        StepContext(key="0" * 64, parameters=wanted, inputs={}, output=output, chain=(), toolchain=None, log=log.append)
    )


def plan_and_download(source: Source, output: Path, lines: list[str] | None = None) -> Facts:
    """Resolve a source and run its download step."""
    return run_download(parameters(resolve(source), source), output, lines)


class RecordedProgress(NoProgress):
    """Records the sizes of all progress reports."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def add(self, size: int) -> None:
        self.sizes.append(size)

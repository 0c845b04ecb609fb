"""What is remembered of a step that has run: what it made, from what, how long it took and where."""

from collections.abc import Mapping
from datetime import datetime

from pydantic import Field, JsonValue

from enginery.steps import Frozen, Step

RECORD_SCHEMA = 1


class FileRecord(Frozen):
    """One file of a step's output.

    Attributes:
        path: relative to the output directory, with forward slashes.
        sha256: 64 hex digits.
        size: bytes.
    """

    path: str
    sha256: str
    size: int


class StepRecord(Frozen):
    """A finished step. It is written last, so a step with a record is whole.

    Attributes:
        key: the step's key.
        step: the step itself.
        label: a name for people, such as `build cpu-int4`.
        files: the output, sorted by path.
        started: when the work began, UTC.
        seconds: how long it took.
        host: the name of the machine.
        toolchain: the probed versions of the toolchain, package -> version; empty for Enginery's own work.
        peak_memory_bytes: highest resident memory of the step's commands; 0 where none was started.
        commands: the commands as they were run, for people; secrets are masked.
        facts: what the stage wants to be remembered, such as the commit of the weights.
        enginery: the version of Enginery that did the work.
    """

    record_schema: int = RECORD_SCHEMA
    key: str
    step: Step
    label: str
    files: tuple[FileRecord, ...]
    started: datetime
    seconds: float
    host: str
    toolchain: Mapping[str, str] = Field(default_factory=dict)
    peak_memory_bytes: int = 0
    commands: tuple[tuple[str, ...], ...] = ()
    facts: Mapping[str, JsonValue] = Field(default_factory=dict)
    enginery: str

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

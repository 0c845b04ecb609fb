"""Steps, their keys and their records.

A step is the work of one stage for one target. Its key is the digest of everything that determines its output. Its
record says what was made, from what, how long it took and where.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from enginery.core.digests import json_digest
from enginery.core.model import Frozen

KEY_SCHEMA = 1
"""Part of every key: raised when the meaning of a key's fields changes, so that no old result is used by mistake."""
RECORD_SCHEMA = 1
ANY_GPU = "nvidia"
"""Where a step runs that needs any NVIDIA GPU."""


class Stage(StrEnum):
    """A kind of work, in the order a build goes through them."""

    DOWNLOAD = "download"
    CONVERT = "convert"
    BUILD = "build"
    VALIDATE = "validate"
    PACKAGE = "package"
    PUBLISH = "publish"
    ROLLOUT = "rollout"


class Command(Frozen):
    """An external step's recipe: the command itself.

    `{name}` in an argument stands for the directory of the input of that name, `{output}` for the directory to fill,
    `{python}` for the toolchain's interpreter, `{examples}` for its release's examples and `{drivers}` for Enginery's
    own drivers.

    Attributes:
        argv: the command.
        environment: variables it is given besides the toolchain's.
        runner: names the function that runs the command and checks what it made; without one it is just run.
        parameters: what else the runner must know.
    """

    kind: Literal["command"] = "command"
    argv: tuple[str, ...]
    environment: Mapping[str, str] = Field(default_factory=dict)
    runner: str | None = None
    parameters: Mapping[str, JsonValue] = Field(default_factory=dict)


class Call(Frozen):
    """An internal step's recipe: a function of Enginery's, its version and its parameters.

    The version is raised whenever the function would make something else from the same parameters.
    """

    kind: Literal["call"] = "call"
    function: str
    version: int
    parameters: Mapping[str, JsonValue] = Field(default_factory=dict)


Recipe = Annotated[Command | Call, Field(discriminator="kind")]


class Step(Frozen):
    """One stage's work: what goes in, what is done to it, with what, and where.

    Attributes:
        stage: the kind of work.
        inputs: names as the recipe uses them -> keys of the steps that make them.
        recipe: the command or function.
        toolchain: digest of the toolchain's identity; None where Enginery itself does the work.
        runs_on: the GPU the step must run on, `nvidia` for any of them, `cpu`, or `any` machine.
    """

    stage: Stage
    inputs: Mapping[str, str] = Field(default_factory=dict)
    recipe: Recipe
    toolchain: str | None = None
    runs_on: str = "any"

    @cached_property
    def key(self) -> str:
        """SHA-256, in hex, of the canonical JSON of everything that determines the step."""
        return json_digest({"schema": KEY_SCHEMA, **self.model_dump(mode="json")})


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
    """A finished step. It is written last, so a step with a record is complete.

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
        facts: what the stage notes, such as the commit of the weights.
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

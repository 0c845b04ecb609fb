"""Steps, their keys and their records.

A step is the work of one stage for one target. A step's key is the digest of everything that determines its output. A
step's record says which files the step made, from which inputs, how long it took and on which machine.
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
"""Part of every key. It is raised when the meaning of a key's fields changes, so that old outputs are not used."""
RECORD_SCHEMA = 1
ANY_GPU = "nvidia"
"""`Step.runs_on` of a step that needs an NVIDIA GPU, but no special one."""


class Stage(StrEnum):
    """A kind of work. The order is that of a build."""

    DOWNLOAD = "download"
    REFERENCE = "reference"
    CONVERT = "convert"
    BUILD = "build"
    VALIDATE = "validate"
    BENCH = "bench"
    EVALUATE = "evaluate"
    GATES = "gates"
    PACKAGE = "package"
    PUBLISH = "publish"
    ROLLOUT = "rollout"


class Command(Frozen):
    """An external step's recipe: the command itself.

    Arguments may have placeholders. `{name}` is the directory of the input with that name, `{output}` the output
    directory, `{python}` the toolchain's interpreter, `{examples}` the examples of its release, and `{drivers}` the
    scripts of Enginery that run inside a toolchain.

    Attributes:
        argv: the command.
        environment: environment variables, in addition to those of the toolchain.
        runner: the name of a function that runs the command and checks its output; None to only run the command.
        parameters: more parameters of the runner.
    """

    kind: Literal["command"] = "command"
    argv: tuple[str, ...]
    environment: Mapping[str, str] = Field(default_factory=dict)
    runner: str | None = None
    parameters: Mapping[str, JsonValue] = Field(default_factory=dict)


class Call(Frozen):
    """An internal step's recipe: a function of Enginery, its version and its parameters.

    The version is raised when the function changes and its output for the same parameters changes too.
    """

    kind: Literal["call"] = "call"
    function: str
    version: int
    parameters: Mapping[str, JsonValue] = Field(default_factory=dict)


Recipe = Annotated[Command | Call, Field(discriminator="kind")]


class Step(Frozen):
    """The work of one stage for one target.

    Attributes:
        stage: the kind of work.
        inputs: names in the recipe -> keys of the steps that make these inputs.
        recipe: the command or function.
        toolchain: the digest of the toolchain's identity; None when Enginery itself does the work.
        runs_on: the GPU on which the step must run, `nvidia` for any NVIDIA GPU, `cpu`, or `any` for any machine.
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
    """The record of a finished step. It is written after the files, so a step with a record is complete.

    Attributes:
        key: the step's key.
        step: the step itself.
        label: a name for people, such as `build cpu-int4`.
        files: the files of the output, sorted by path.
        started: when the work began, UTC.
        seconds: how long it took.
        host: the name of the machine.
        toolchain: package -> its version in the toolchain; empty when Enginery itself did the work.
        peak_memory_bytes: the highest resident memory of the step's commands; 0 when none was started.
        commands: the commands as they were run, for people, with secrets masked.
        facts: facts that the stage recorded, such as the commit of the weights.
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
        """The size of all files together, in bytes."""
        return sum(file.size for file in self.files)

"""Steps and their keys: one stage's work for one target, and the digest of everything that determines it."""

from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from enginery.digests import json_digest

KEY_SCHEMA = 1
"""Part of every key: raised when the meaning of a key's fields changes, so that old results are not taken for new."""


ANY_GPU = "nvidia"
"""Where a step runs that needs an NVIDIA GPU, but not a certain one."""


class Stage(StrEnum):
    """A kind of work, in the order a build goes through them."""

    DOWNLOAD = "download"
    CONVERT = "convert"
    BUILD = "build"
    VALIDATE = "validate"
    PACKAGE = "package"
    PUBLISH = "publish"
    ROLLOUT = "rollout"


class Frozen(BaseModel):
    """A value that cannot change once made."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Command(Frozen):
    """An external step's recipe: the command itself.

    `{name}` in an argument stands for the directory of the input of that name, `{output}` for the directory to fill,
    `{python}` for the toolchain's interpreter, `{examples}` for its release's examples and `{drivers}` for Enginery's
    own drivers.

    Attributes:
        argv: the command.
        environment: variables it is given besides the toolchain's.
        runner: names the function that runs the command and checks what it made; without one it is just run.
        parameters: what the runner must know besides.
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

"""The terms in which an engine build is rendered: what was asked for, and what each option becomes."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from enginery.releases import Flag
from enginery.sources import ModelFacts
from enginery.spec import BuildOptions, Finding

# The terms in which a build is rendered: what was asked, and what each option becomes.


@dataclass(frozen=True)
class Asked:
    """What is to be built, and the flags of the release that is to build it.

    Attributes:
        options: what the spec says.
        release: the release.
        flags: its flags by name, with their dashes.
        dtype: the number format of the activations, such as `bfloat16`; empty where it is not known.
        model: the model's shape; None where it is not known.
        ranks: how many GPUs share the engine.
    """

    options: BuildOptions
    release: str
    flags: Mapping[str, Flag]
    dtype: str = ""
    model: ModelFacts | None = None
    ranks: int = 1

    def flag(self, field: str) -> Flag | None:
        """The flag of the same name as a field."""
        return self.flags.get(f"--{field}")

    def default(self, field: str) -> Any:
        """The default of that flag; None where there is no such flag or it has none."""
        flag = self.flag(field)
        return flag.default if flag else None

    def input_length(self) -> int:
        """The longest prompt: the spec's, else the release's default."""
        return int(self.options.max_input_len or self.default("max_input_len"))


class Piece(NamedTuple):
    """What one option becomes.

    Attributes:
        argv: arguments of `trtllm-build`.
        findings: what is wrong with it.
        environment: environment variables of `trtllm-build`.
    """

    argv: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    environment: Mapping[str, str] = MappingProxyType({})


NOTHING = Piece()
"""For an option that the release follows without being told."""


def refused(code: str, field: str, problem: str, remedy: str) -> Piece:
    """An option that the release cannot follow."""
    return Piece(findings=(Finding(code, f"build.{field}", problem, remedy),))


def written(value: Any) -> str:
    """A value as a spec writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(written(one) for one in value) + "]"
    return str(value)

"""What a running step sees: its parameters, its inputs, the directory to fill, and the way to start commands."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from enginery.records import StepRecord

if TYPE_CHECKING:
    from enginery.process import Completed
    from enginery.toolchains import Toolchain

Log = Callable[[str], None]
"""Takes one line for people to read while the step runs."""

Facts = Mapping[str, JsonValue]
"""What a stage wants to be remembered in the step's record."""


@dataclass
class StepContext:
    """One step at work.

    Attributes:
        key: the step's key.
        parameters: the recipe's parameters; empty for a command.
        inputs: input names -> directories that must not be changed.
        output: an empty directory to fill; what is in it at the end is the step's output.
        chain: the records of every step this one comes from, each after those it needs.
        toolchain: the environment for the step's commands; None where the step needs none.
        log: takes progress lines.
        timeout: seconds that each command may take; None for no limit.
        completed: the commands that were run, in order.
    """

    key: str
    parameters: Mapping[str, JsonValue]
    inputs: Mapping[str, Path]
    output: Path
    chain: tuple[StepRecord, ...]
    toolchain: "Toolchain | None"
    log: Log
    timeout: float | None = None
    completed: list["Completed"] = field(default_factory=list)

    def run(self, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> "Completed":
        """Run a command in the step's toolchain and remember it.

        Raises:
            CommandError: when the command cannot be started or does not end well.
        """
        from enginery import process  # noqa: PLC0415  a plan never starts a process

        base = self.toolchain.environment if self.toolchain else os.environ
        done = process.run(argv, env={**base, **(environment or {})}, log=self.log, timeout=self.timeout)
        self.completed.append(done)
        return done

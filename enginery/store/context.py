"""What a running step can use: its parameters, its inputs, its output directory, and a function to run commands."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from enginery.core import process
from enginery.core.progress import Log, Progress
from enginery.store.steps import StepRecord
from enginery.toolchains import DRIVERS, Access, Toolchain

if TYPE_CHECKING:
    from enginery.store.shelf import Shelf


@dataclass
class StepContext:
    """A running step.

    Attributes:
        key: the step's key.
        parameters: the recipe's parameters; empty for a command.
        inputs: input names -> directories that must not be changed.
        output: an empty directory. The files in it at the end are the step's output.
        chain: the records of all steps before this one. Each step is after the steps that it needs.
        toolchain: the environment for the step's commands; None when the step needs none.
        log: is called with lines for people.
        timeout: seconds that each command may take; None for no limit.
        places: placeholders in the step's command -> files and directories of the user.
        shelf: files of the store that make steps faster, such as timing caches; None without a store.
        neighbours: the steps that work on this machine's CPU at the same time, for a step that wants to be alone.
        progress: is called as a transfer goes on; None to write lines to the log.
        completed: the commands that have run, in order.
    """

    key: str
    parameters: Mapping[str, JsonValue]
    inputs: Mapping[str, Path]
    output: Path
    chain: tuple[StepRecord, ...]
    toolchain: "Toolchain | None"
    log: Log
    timeout: float | None = None
    places: Mapping[str, str] = field(default_factory=dict)
    shelf: "Shelf | None" = None
    progress: "Progress | None" = None
    neighbours: tuple[str, ...] = ()
    completed: list["process.Completed"] = field(default_factory=list)

    @property
    def scratch(self) -> Path:
        """A directory beside the output for files that commands exchange with Enginery. It is made at its first use.

        A command in a container sees this directory, but not the system's directory for temporary files.
        """
        path = self.output.parent / "scratch"
        path.mkdir(exist_ok=True)
        return path

    def run(
        self, argv: Sequence[str], environment: Mapping[str, str] | None = None, *, cwd: Path | None = None
    ) -> "process.Completed":
        """Run a command in the step's toolchain and add it to `completed`.

        In a container the command can read the inputs, `places` and Enginery's drivers, and can write to the output and
        the directory around it. It has a network unless `environment` has HF_HUB_OFFLINE=1.

        Args:
            argv: the command.
            environment: environment variables, in addition to those of the toolchain.
            cwd: its working directory; default: that of this process.

        Raises:
            CommandError: when the command cannot be started or fails.
        """
        given = environment or {}
        if self.toolchain is None:
            done = process.run(argv, env={**os.environ, **given}, cwd=cwd, log=self.log, timeout=self.timeout)
        else:
            done = self.toolchain.run(argv, self._access(given, cwd), self.log, self.timeout)
        self.completed.append(done)
        return done

    def _access(self, environment: Mapping[str, str], cwd: Path | None) -> Access:
        own = tuple(Path(place) for place in self.places.values())
        return Access(
            name=self.key,
            environment=environment,
            cwd=cwd,
            read_only=(*self.inputs.values(), *own, DRIVERS),
            read_write=(self.output.parent, *([cwd] if cwd else [])),
            network=environment.get("HF_HUB_OFFLINE") != "1",
        )

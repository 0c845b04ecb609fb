"""What a running step sees: its parameters, its inputs, the directory to fill, and the way to start commands."""

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
    """One step at work.

    Attributes:
        key: the step's key.
        parameters: the recipe's parameters; empty for a command.
        inputs: input names -> directories that must not be changed.
        output: an empty directory to fill; what is in it at the end is the step's output.
        chain: the records of every step this one comes from, each after those it needs.
        toolchain: the environment for the step's commands; None where the step needs none.
        log: takes lines for people.
        timeout: seconds that each command may take; None for no limit.
        places: placeholders of the step's command -> files and directories of the user.
        shelf: where the store keeps what makes steps faster; None where there is no store.
        progress: takes note of a transfer; None for lines in the log.
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
    places: Mapping[str, str] = field(default_factory=dict)
    shelf: "Shelf | None" = None
    progress: "Progress | None" = None
    completed: list["process.Completed"] = field(default_factory=list)

    @property
    def scratch(self) -> Path:
        """A directory beside the output for files that commands exchange with Enginery; made when first asked for.

        A command in a container sees it, other than the system's directory for temporary files.
        """
        path = self.output.parent / "scratch"
        path.mkdir(exist_ok=True)
        return path

    def run(
        self, argv: Sequence[str], environment: Mapping[str, str] | None = None, *, cwd: Path | None = None
    ) -> "process.Completed":
        """Run a command in the step's toolchain and remember it.

        In a container it sees the inputs, `places` and Enginery's drivers, and can write into and beside the output;
        it reaches the network unless `environment` has HF_HUB_OFFLINE=1.

        Args:
            argv: the command.
            environment: variables it is given besides the toolchain's.
            cwd: its working directory; this process's own when left out.

        Raises:
            CommandError: when the command cannot be started or does not end well.
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

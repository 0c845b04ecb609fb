"""Makes a stand-in: its directory with commands, modules and examples, and the object with which tests control it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginery.releases.facts import pin
from enginery.releases.flags import script
from tests.support.trtllm import wrappers
from tests.support.trtllm.home import HANGING, TOKENIZERS, Call, Home
from tests.support.trtllm.misbehaviour import NAMES

H100 = {"name": "NVIDIA H100 80GB HBM3", "compute_cap": "9.0", "memory.total": "81559"}
MODULE = "tensorrt_llm"


@dataclass(frozen=True)
class StandIn:
    """A stand-in for a release's commands."""

    directory: Path
    release: str

    @property
    def bin(self) -> Path:
        """The directory to put first on PATH."""
        return self.directory / "bin"

    @property
    def examples(self) -> Path:
        """The release's examples directory."""
        return self.directory / "examples"

    @property
    def python(self) -> Path:
        """The Python interpreter with the stand-in's modules."""
        return self.bin / "python3"

    def script(self, command: str) -> Path:
        """The path of a script of the release, such as `run.py` or `convert_checkpoint.py llama`."""
        where = script(self.release, command).value
        if where is None:
            raise ValueError(f"{self.release} has no {command}")
        return self.directory / where

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """An environment, by default this process's, with the commands first on PATH."""
        inherited = dict(os.environ if base is None else base)
        return inherited | {"PATH": f"{self.bin}{os.pathsep}{inherited.get('PATH', os.defpath)}"}

    def calls(self, command: str | None = None) -> list[Call]:
        """The calls so far, in order, or only those of one command. `convert_checkpoint.py` means any family."""
        return [call for call in Home(self.directory).calls() if command is None or call.is_of(command)]

    def misbehave(
        self, command: str, how: str, *, times: int | None = None, rank: int | None = None, **details: Any
    ) -> None:
        """Make a command fail from now on.

        Args:
            command: its name; `tensorrt_llm` for the modules; `convert_checkpoint.py` for every family.
            how: the way in which it fails, one of `misbehaviour.NAMES`.
            times: how many of its next runs fail; None for all.
            rank: only this MPI rank; None for all.
            details: `lines`, `seconds`, `flags`, `bytes`, `crash`, `config`, `rotary_base`.
        """
        if how not in NAMES:
            raise ValueError(f"{how!r} is no way to go wrong: {sorted(NAMES)}")
        if how == "not_there":
            wrappers.remove_command(self.directory, self.release, command)
        entry = {"command": command, "how": how, "times": times, "rank": rank, "details": details}
        before = len(self.calls())
        self._change(lambda control: control["misbehaviours"].append(entry | {"from": before}))

    def behave(self) -> None:
        """Make nothing fail any more. Commands that `not_there` has removed stay removed."""
        self._change(lambda control: control["misbehaviours"].clear())

    def answer(self, prompt: str, text: str) -> None:
        """Set the model's answer to a prompt. The answer to any other prompt is the prompt itself."""
        self._change(lambda control: control["answers"].update({prompt: text}))

    def gpus(self, *gpus: Mapping[str, str]) -> None:
        """Set the machine's GPUs, each with the fields of nvidia-smi's query."""
        self._change(lambda control: control.update(gpus=[dict(gpu) for gpu in gpus]))

    def hanging(self) -> list[int]:
        """The process ids of all processes that hang or did hang."""
        pids = self.directory / HANGING
        return sorted(int(path.name) for path in pids.iterdir()) if pids.exists() else []

    def _change(self, change: Any) -> None:
        own = Home(self.directory)
        control = own.control
        change(control)
        own.write_control(control)


def make_release(  # noqa: PLR0913  each is a way to tell it what to be
    directory: Path,
    release: str,
    *,
    answers: Mapping[str, str] | None = None,
    gpus: int | list[Mapping[str, str]] = 8,
    tensorrt: str | None = None,
    tokenizer: Path | None = None,
) -> StandIn:
    """Make the stand-in of a release.

    Args:
        directory: its directory, made if needed.
        release: any release with recorded facts.
        answers: prompt -> the model's answer. The answer to any other prompt is the prompt itself.
        gpus: the machine's GPUs: the number of H100, or each with the fields of nvidia-smi's query.
        tensorrt: the TensorRT version; the release's pinned one when left out.
        tokenizer: the `tokenizer.json` for engines whose checkpoint was not made by this stand-in.
    """
    directory.mkdir(parents=True, exist_ok=True)
    pinned = pin(release, "tensorrt").value
    built_with = tensorrt or (pinned.lstrip("=~<>! ") if pinned else "")
    control = {
        "release": release,
        "tensorrt": built_with,
        "gpus": [dict(H100) for _ in range(gpus)] if isinstance(gpus, int) else [dict(gpu) for gpu in gpus],
        "answers": dict(answers or {}),
        "misbehaviours": [],
    }
    Home(directory).write_control(control)
    wrappers.write(directory, release, built_with)
    if tokenizer is not None:
        kept = directory / TOKENIZERS
        kept.mkdir(exist_ok=True)
        (kept / "default.json").write_bytes(tokenizer.read_bytes())
    return StandIn(directory, release)

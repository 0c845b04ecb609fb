"""Taking the time of things: one after the other in turn, so that a busy moment of the machine meets them all."""

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turn(
    ours: Callable[[], object], theirs: Callable[[], object], *, times: int, warm_ups: int = 1, pause: float = 0.0
) -> tuple[list[float], list[float]]:
    """The times of both, done alternately; who goes first alternates too.

    Args:
        ours: what is measured.
        theirs: what it is compared with.
        times: how often each is done.
        warm_ups: how often each is done before, without being counted.
        pause: seconds of quiet before each, for what the one before left to do in the background.
    """
    samples: tuple[list[float], list[float]] = ([], [])
    pairs = ((samples[0], ours), (samples[1], theirs))
    for number in range(warm_ups + times):
        for taken, work in pairs if number % 2 else reversed(pairs):
            time.sleep(pause)
            taken.append(seconds(work))
    return samples[0][warm_ups:], samples[1][warm_ups:]


def command(argv: Sequence[str | Path], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
    """Run a command bare, its output kept aside.

    Raises:
        RuntimeError: when it fails, with the end of its output.
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

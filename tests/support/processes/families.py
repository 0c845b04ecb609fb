"""Commands that start child processes which are hard to end, and functions that say which of them are alive."""

import sys
from pathlib import Path

import psutil

from tests.support.waiting import wait_until

FAMILY = """
import os, signal, sys, time
from pathlib import Path
pids = Path(sys.argv[1])
stubborn = "stubborn" in sys.argv
if stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
def wait(name):
    (pids / f"{name}.part").write_text(str(os.getpid()))
    (pids / f"{name}.part").rename(pids / name)
    time.sleep(600)
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()      # as MPI ranks do: another session, and its parent has gone
        wait("rank")
    os._exit(0)
if os.fork() == 0:
    wait("child")
if "leave" in sys.argv:
    while not ((pids / "rank").exists() and (pids / "child").exists()):
        time.sleep(0.01)
    os._exit(0)
wait("command")
"""


def family_argv(pids: Path, *words: str) -> list[str]:
    """A command with a child and an orphaned grandchild in its own session.

    Each of the three writes its process id into the directory `pids`.
    With the word `stubborn` all of them ignore SIGTERM. With `leave` the command itself ends at once.
    """
    return [sys.executable, "-c", FAMILY, str(pids), *words]


def wait_for_family(pids: Path) -> list[int]:
    """Wait until the command, its child and its grandchild run, and return their process ids."""
    names = ("rank", "child", "command")
    wait_until(lambda: all((pids / name).exists() for name in names), seconds=30)
    return family_pids(pids)


def family_pids(pids: Path) -> list[int]:
    """The process ids that have been written so far."""
    return [int(path.read_text()) for path in pids.iterdir() if path.suffix != ".part"]


def is_alive(pid: int) -> bool:
    """Whether there is such a process. A zombie does not count."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def alive_among(pids: list[int]) -> list[int]:
    """Those of `pids` that are alive."""
    return [pid for pid in pids if is_alive(pid)]

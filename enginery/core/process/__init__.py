"""The one place that starts commands.

Every command gets a process group of its own and no shell. Its output is passed on line by line; a time limit, a
cancelled run or a killed Enginery ends the whole group. Known failures are named.

    done = run(["trtllm-build", "--help"], log=print, timeout=60)
"""

from enginery.core.process import command
from enginery.core.process.command import Completed, run
from enginery.core.process.failures import WARNING, FailureCause, failure_of
from enginery.core.process.service import Service, running, stop_pid
from enginery.core.process.supervised import SUPERVISOR

__all__ = [
    "SUPERVISOR",
    "WARNING",
    "Completed",
    "FailureCause",
    "Service",
    "command",
    "failure_of",
    "run",
    "running",
    "stop_pid",
]

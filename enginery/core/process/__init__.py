"""Starting commands and servers.

Each command runs in its own session, without a shell. Its output is passed on line by line. A time limit, a cancelled
run or the death of Enginery ends the command with all its descendants. Known failures have names.

    done = run(["trtllm-build", "--help"], log=print, timeout=60)
"""

from typing import TYPE_CHECKING

from enginery.core.late import door

if TYPE_CHECKING:
    from enginery.core.process import command
    from enginery.core.process.command import Completed, run
    from enginery.core.process.failures import WARNING, FailureCause, failure_of
    from enginery.core.process.service import Service, running, stop_pid
    from enginery.core.process.supervised import SUPERVISOR
else:
    __getattr__ = door(__name__, __file__)

"""A process that is at work on something others must not touch meanwhile, named so that its death can be noticed."""

import os
import socket

import psutil

from enginery.steps import Frozen


class Worker(Frozen):
    """A process; `started` tells it from a later one with the same number."""

    host: str
    pid: int
    started: float

    @classmethod
    def this(cls) -> "Worker":
        """This process."""
        return cls(host=socket.gethostname(), pid=os.getpid(), started=psutil.Process().create_time())

    def is_here(self) -> bool:
        """Whether it is or was a process of this machine."""
        return self.host == socket.gethostname()

    def is_at_work(self) -> bool:
        """Whether it is another process that still runs on this machine.

        Of one on another machine nothing is known, so it does not.
        """
        if not self.is_here() or self == Worker.this():
            return False
        try:
            return psutil.Process(self.pid).create_time() == self.started
        except psutil.NoSuchProcess:
            return False

"""Claims: they keep two publishers of different files from working on the same build at once.

A claim is an object beside the files of a build, present while they are sent. Publishers of the same files share it.
When its holder has died, the next publisher takes it over. Pruning a build claims it too, so that nobody publishes it
meanwhile.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from enginery.core.errors import RegistryError
from enginery.core.locks import Worker
from enginery.core.model import Frozen
from enginery.core.s3 import Prefix
from enginery.store import HeldObject

CLAIM = "publishing.json"
PRUNING = "pruning"
ATTEMPTS = 3
LONGEST_PUBLISH = timedelta(hours=6)
"""Whether a process on another machine has died is not known: its claim holds for as long as a publish may take."""


class InTheWay(RegistryError):  # noqa: N818  it says what is there, not that it is wrong
    """Another process is at work on the build; trying again later can help."""


class Holder(Frozen):
    """Who holds a claim, as its object says it.

    Attributes:
        files: the digest of all files that the holder publishes; `pruning` and a unique name for one that prunes.
        worker: the process.
        since: when it began, UTC.
    """

    files: str
    worker: Worker
    since: datetime

    def may_be_at_work(self) -> bool:
        """Whether the process may still run: known on this machine, assumed for some hours on others."""
        if self.worker.is_local():
            return self.worker.is_at_work()
        return datetime.now(UTC) - self.since < LONGEST_PUBLISH

    def __str__(self) -> str:
        return f"process {self.worker.pid} on {self.worker.host}, since {self.since:%H:%M} UTC"


class Claim(HeldObject[Holder]):
    """The claim on one build.

    Attributes:
        prefix: the build.
        files: the digest of the files for which this process claims it; empty when it only looks.
    """

    def __init__(self, prefix: Prefix, files: str = "") -> None:
        super().__init__(prefix, CLAIM, Holder)
        self.files = files

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the claim: nobody with other files works on the build meanwhile.

        When the body ends without an error, the build has its manifest and needs no claim any more.

        Raises:
            InTheWay: while another process holds it for other files; transient.
        """
        is_new = self._acquire()
        try:
            yield
        except BaseException:
            if is_new and self.is_ours():
                self.prefix.delete(CLAIM)
            raise
        self.prefix.delete(CLAIM)

    def is_held(self) -> bool:
        """Whether a process that may still be at work holds the claim."""
        holder = self.read()
        return holder is not None and holder.may_be_at_work()

    def is_ours(self) -> bool:
        """Whether the claim is held for these files."""
        holder = self.read()
        return holder is not None and holder.files == self.files

    def in_the_way(self, holder: Holder | str) -> InTheWay:
        """The error for a process that finds the build claimed by another."""
        pruned = isinstance(holder, Holder) and holder.files.startswith(PRUNING)
        problem = "the build is being removed" if pruned else "another publisher is sending other files for this build"
        return InTheWay(
            f"{problem}: {holder}",
            subject=str(self.prefix.address),
            remedy=f"wait until it has finished; if it has died, remove {self.prefix.where(CLAIM)}",
            transient=True,
        )

    def _acquire(self) -> bool:
        """Take the claim and return True; False when it is shared with a holder for the same files."""
        for _ in range(ATTEMPTS):
            holder = self.read()
            if holder and holder.may_be_at_work():
                if holder.files == self.files:
                    return False
                raise self.in_the_way(holder)
            if self.replace(Holder(files=self.files, worker=Worker.this(), since=datetime.now(UTC))):
                return True
        raise self.in_the_way("others keep beginning")

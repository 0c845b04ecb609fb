"""Claims: a claim keeps two publishers of different files from working on the same build at once.

A claim is an object beside the files of a build. It exists while the files are sent. Publishers of the same files share
it. When its holder has died, the next publisher takes it over. A prune claims a build too before it removes the build,
so that nobody publishes the build meanwhile.
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
"""How long a claim from another machine counts, because this machine cannot see whether its process still runs."""


class ClaimHeld(RegistryError):  # noqa: N818  not a fault, only a build that is in use
    """Another process works on the build; trying again later can help."""


class Holder(Frozen):
    """The content of a claim: the process that holds it, and what for.

    Attributes:
        files: the digest of all files that the holder publishes; for a prune, `pruning` and a unique name.
        worker: the process that holds the claim.
        since: when it took the claim, UTC.
    """

    files: str
    worker: Worker
    since: datetime

    def may_be_at_work(self) -> bool:
        """Whether the process may still run. On this machine that is known; on others it is assumed for some hours."""
        if self.worker.is_local():
            return self.worker.is_at_work()
        return datetime.now(UTC) - self.since < LONGEST_PUBLISH

    def __str__(self) -> str:
        return f"process {self.worker.pid} on {self.worker.host}, since {self.since:%H:%M} UTC"


class Claim(HeldObject[Holder]):
    """The claim on one build.

    Attributes:
        prefix: the prefix of the build.
        files: the digest of the files that this process publishes; empty for a process that only reads the claim.
    """

    def __init__(self, prefix: Prefix, files: str = "") -> None:
        super().__init__(prefix, CLAIM, Holder)
        self.files = files

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the claim during a `with` block, so that no process publishes other files for the build.

        The claim is deleted at the end of the block. After an error it is deleted only if this process made it.

        Raises:
            ClaimHeld: when another process holds the claim for other files; transient.
        """
        is_new = self._take()
        try:
            yield
        except BaseException:
            if is_new and self.is_ours():
                self.prefix.delete(CLAIM)
            raise
        self.prefix.delete(CLAIM)

    def is_held(self) -> bool:
        """Whether a process that may still run holds the claim."""
        holder = self.read()
        return holder is not None and holder.may_be_at_work()

    def is_ours(self) -> bool:
        """Whether the claim is held for the files of this process."""
        holder = self.read()
        return holder is not None and holder.files == self.files

    def held_error(self, holder: Holder | str) -> ClaimHeld:
        """The error for a process that needs the claim, when `holder` has it."""
        pruned = isinstance(holder, Holder) and holder.files.startswith(PRUNING)
        problem = "the build is being removed" if pruned else "another publisher is sending other files for this build"
        return ClaimHeld(
            f"{problem}: {holder}",
            subject=str(self.prefix.address),
            remedy=f"wait until it has finished; if it has died, remove {self.prefix.where(CLAIM)}",
            transient=True,
        )

    def _take(self) -> bool:
        """Take the claim and return True; False when another process holds it for the same files, and it is shared."""
        for _ in range(ATTEMPTS):
            holder = self.read()
            if holder and holder.may_be_at_work():
                if holder.files == self.files:
                    return False
                raise self.held_error(holder)
            if self.replace(Holder(files=self.files, worker=Worker.this(), since=datetime.now(UTC))):
                return True
        raise self.held_error("several processes take the claim at the same time")

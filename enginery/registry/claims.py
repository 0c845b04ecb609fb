"""Who is publishing a build: nobody writes over the files of a publisher of other files who is still at work.

A claim is an object beside the build's files, there while they are sent. Publishers of the same files share one. That
of a publisher who has died is taken over. Who removes a build claims it as well, so that nobody sends files meanwhile.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from enginery.core.errors import RegistryError
from enginery.core.locks import Worker
from enginery.core.model import Frozen
from enginery.core.s3 import PreconditionFailed, Prefix

CLAIM = "publishing.json"
PRUNING = "pruning"
ATTEMPTS = 3
LONGEST_PUBLISH = timedelta(hours=6)
"""Whether a publisher on another machine has died is not known: its claim holds as long as a publish may take."""


class InTheWay(RegistryError):  # noqa: N818  what it is, not that it is wrong
    """Another one is at work on the build; trying again later can help."""


class Claim(Frozen):
    """A publisher at work, or one who removes the build.

    Attributes:
        files: the digest of all that it publishes; `pruning` and a name of its own for one who removes.
        worker: the process.
        since: when it began, UTC.
    """

    files: str
    worker: Worker
    since: datetime

    def holds(self) -> bool:
        """Whether the publisher may still be at work."""
        if self.worker.is_local():
            return self.worker.is_at_work()
        return datetime.now(UTC) - self.since < LONGEST_PUBLISH


@contextmanager
def claimed(prefix: Prefix, files: str) -> Iterator[None]:
    """Inside, no publisher of other files works on the build at `prefix`; `files` is the digest of ours.

    To be left without an error once the build has its manifest, which needs no claim.

    Raises:
        RegistryError: while another one does; transient.
    """
    ours = _take(prefix, files)
    try:
        yield
    except BaseException:
        if ours and is_claimed(prefix, files):
            prefix.delete(CLAIM)
        raise
    prefix.delete(CLAIM)


def is_at_work(prefix: Prefix) -> bool:
    """Whether there is a claim of someone who may still be at work."""
    claim, _ = _read(prefix)
    return claim is not None and claim.holds()


def is_claimed(prefix: Prefix, files: str) -> bool:
    """Whether there is a claim for these files."""
    claim, _ = _read(prefix)
    return claim is not None and claim.files == files


def _take(prefix: Prefix, files: str) -> bool:
    """Make a claim, and say so; False when it is shared with one that is there for the same files."""
    for _ in range(ATTEMPTS):
        now, etag = _read(prefix)
        if now and now.holds():
            if now.files == files:
                return False
            who = f"process {now.worker.pid} on {now.worker.host}, since {now.since:%H:%M} UTC"
            raise _being_removed(prefix, who) if now.files.startswith(PRUNING) else in_the_way(prefix, who)
        if _swap(prefix, Claim(files=files, worker=Worker.this(), since=datetime.now(UTC)), etag):
            return True
    raise in_the_way(prefix, "others keep beginning")


def _swap(prefix: Prefix, claim: Claim, etag: str | None) -> bool:
    data = claim.model_dump_json().encode()
    try:
        prefix.put_bytes(CLAIM, data, if_none_match=etag is None, if_match=etag)
    except PreconditionFailed:
        return False
    return True


def in_the_way(prefix: Prefix, who: str) -> InTheWay:
    """The error for a publisher that meets another one of the same build with other files."""
    return InTheWay(
        f"another publisher is sending other files for this build: {who}",
        subject=str(prefix.address),
        remedy=f"wait until it has finished; if it has died, remove {prefix.where(CLAIM)}",
        transient=True,
    )


def _being_removed(prefix: Prefix, who: str) -> InTheWay:
    return InTheWay(
        f"the build is being removed: {who}",
        subject=str(prefix.address),
        remedy=f"wait until that has finished; if it has died, remove {prefix.where(CLAIM)}",
        transient=True,
    )


def _read(prefix: Prefix) -> tuple[Claim | None, str | None]:
    found = prefix.get(CLAIM)
    if found is None:
        return None, None
    try:
        return Claim.model_validate_json(found.data), found.etag
    except ValidationError:
        return None, found.etag  # of no publisher that could be waited for

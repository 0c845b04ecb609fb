"""What stands in for a flag that is gone or going."""

from dataclasses import dataclass

from packaging.version import Version

from enginery.releases import data
from enginery.releases.flags import BUILD
from enginery.releases.known import version
from enginery.releases.provenance import Certainty, Known, Provenance


@dataclass(frozen=True)
class Replacement:
    """What to use in place of a flag.

    Attributes:
        command: whose flag it is.
        flag: the one that is gone or deprecated.
        since: the first release in which the replacement is to be used.
        by: the flags of the same command that replace it; empty when none does.
        how: what to do, in a few words.
    """

    command: str
    flag: str
    since: str
    by: tuple[str, ...]
    how: str


def replacement(release: str, flag: str, command: str = BUILD) -> Known[Replacement | None]:
    """What replaces a flag in a release; None when it is not replaced there, or nothing is known to replace it."""
    asked = version(release)
    fitting = [one for one in replacements() if (one.command, one.flag) == (command, flag)]
    due = [one for one in fitting if Version(one.since) <= asked]
    return Known(max(due, key=lambda one: Version(one.since)) if due else None, _origin())


def replacements() -> tuple[Replacement, ...]:
    """All that are known."""
    kept = data.topic("replacements")["replacements"]
    return tuple(Replacement(**{**one, "by": tuple(one["by"])}) for one in kept)


def _origin() -> Provenance:
    kept = data.topic("replacements")
    return Provenance(Certainty(kept["certainty"]), "", kept["source"], kept["method"])

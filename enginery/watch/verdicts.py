"""What a release means for a target."""

from enum import StrEnum

from enginery.steps import Frozen


class Kind(StrEnum):
    """What can be done with a release for a target."""

    REBUILD = "rebuild"
    """It can be built, and has not been."""
    BUILT = "already built"
    """The registry has that build."""
    CURRENT = "current"
    """There is no newer release than the spec's own."""
    CHECKPOINT_ONLY = "checkpoint-only"
    """The release builds no engines any more."""
    UNSUPPORTED_FLAG = "unsupported flag"
    """The release does not take something that the spec sets."""
    UNSUPPORTED = "unsupported"
    """The release cannot build this for another reason: model, GPU, precision, memory."""
    NO_TOOLCHAIN = "toolchain not installable"
    """The environment that its commands would run in cannot be had."""
    NO_SUCH_RELEASE = "no such release"
    """The spec names a release that the package index does not list."""
    UNDECIDED = "undecided"
    """It could not be found out: an index, a source or a registry did not answer."""


class Verdict(Frozen):
    """What one release means for one target of a spec.

    Attributes:
        spec: the spec's name.
        target: the target.
        backend: the backend it comes to; empty where that is open.
        present: the release that the spec comes to now; empty for none.
        release: the release judged.
        kind: the verdict.
        reason: why, with what was looked at.
        remedy: what to change, where something must be.
        facts: where nothing is known of the release itself: the one whose facts were taken.
        build_id: the build that it makes, where it can be built.
    """

    spec: str
    target: str
    backend: str = ""
    present: str = ""
    release: str
    kind: Kind
    reason: str = ""
    remedy: str = ""
    facts: str = ""
    build_id: str = ""

    @property
    def row(self) -> dict[str, str]:
        """A line of a table."""
        told = {"spec": self.spec, "target": self.target, "backend": self.backend, "now": self.present}
        return told | {"release": self.release, "verdict": self.kind.value, "why": self.why}

    @property
    def why(self) -> str:
        """The reason with what to do, and whose facts it rests on."""
        then = f" -> {self.remedy}" if self.remedy else ""
        facts = f" (nothing is recorded of {self.release}: facts of {self.facts})" if self.facts else ""
        return f"{self.reason}{then}{facts}"

"""What one release means for one target of a spec.

The target is planned for the release, as if the spec had named it. Then the registry is searched for that build, and
the package index for the release's wheel. Nothing is installed.
"""

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from enginery.core.errors import EngineryError, PlanError, RegistryError, SourceError, UsageError
from enginery.core.model import Frozen
from enginery.core.text import human_bytes
from enginery.pipeline.plan import Plan, Resolver, make_plan
from enginery.registry import Registry
from enginery.releases import Certainty, ListedRelease, Listing, arguments, facts, flags_of
from enginery.spec import BackendName, Releases, Spec, Target, code_of
from enginery.store import Stage
from enginery.toolchains import PACKAGE, ToolchainIdentity


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
    """The environment that its commands would run in cannot be made."""
    NO_SUCH_RELEASE = "no such release"
    """The spec names a release that the package index does not list."""
    UNDECIDED = "undecided"
    """No verdict is possible: an index, a source or a registry did not answer."""


class Verdict(Frozen):
    """What one release means for one target of a spec.

    Attributes:
        spec: the spec's name.
        target: the target.
        backend: the backend it is built with; empty when that is not decided.
        present: the release that the spec is built for now; empty for none.
        release: the release that the verdict is on.
        kind: the verdict.
        reason: why, with the facts that were compared.
        remedy: what to change, where something must be changed.
        facts: where nothing is known of the release itself: the release whose facts were used.
        build_id: the id of the build, where it can be built.
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
        about = {"spec": self.spec, "target": self.target, "backend": self.backend, "now": self.present}
        return about | {"release": self.release, "verdict": self.kind.value, "why": self.why}

    @property
    def why(self) -> str:
        """The reason, what to do, and the release whose facts were used when nothing is known of this one."""
        then = f" -> {self.remedy}" if self.remedy else ""
        facts = f" (nothing is recorded of {self.release}: facts of {self.facts})" if self.facts else ""
        return f"{self.reason}{then}{facts}"


BY_CODE: Mapping[str, Kind] = {
    "E103": Kind.CHECKPOINT_ONLY,
    **dict.fromkeys(("E122", "E160", "E161", "E163", "E403", "E404"), Kind.UNSUPPORTED_FLAG),
    **dict.fromkeys(("E180", "E301", "E302"), Kind.NO_TOOLCHAIN),
}
"""The verdict that follows from the code of a finding; `UNSUPPORTED` for all others."""
FIRST_OF = (Kind.CHECKPOINT_ONLY, Kind.UNSUPPORTED, Kind.UNSUPPORTED_FLAG, Kind.NO_TOOLCHAIN)
"""The verdict when several findings stop a plan: the first of these."""

NO_PINS = "E302"
PIN_IT = "write a pin file for the release, as infra/toolchains/README.md says"
OF_TARGET = re.compile(r"^targets\.0 \([^)]*\)\.")
"""How the findings of a trial begin. It has only one target, and the verdict names it."""


class Candidate(NamedTuple):
    """A target that may be built for another release.

    Attributes:
        spec: its spec.
        target: the target.
        present: the release it is built for now; empty for none.
        listing: the releases of its backend in the package index.
        resolver: resolves the spec's source.
    """

    spec: Spec
    target: Target
    present: str
    listing: Listing
    resolver: Resolver


def rebuild_spec(spec: Spec, targets: dict[str, str]) -> Spec:
    """The spec of a rebuild: some targets, each for another release.

    Nothing is rolled out, and only the channel `releases.build_channel` is moved, so nothing that serves changes. Up to
    publishing, the steps have the same keys as if the spec itself named these releases.

    Args:
        spec: the spec.
        targets: the targets to keep -> the release for each.
    """
    chosen = tuple(
        target.model_copy(update={"release": targets[target.name]}) for target in spec.targets if target.name in targets
    )
    publish = spec.publish and spec.publish.model_copy(update={"channel": spec.releases.build_channel})
    changes = {"targets": chosen, "publish": publish, "rollout": None, "releases": Releases()}
    return spec.model_copy(update=changes)


def judge(candidate: Candidate, release: ListedRelease) -> Verdict:
    """The verdict on a release for a target."""
    blank = Verdict(
        spec=candidate.spec.name,
        target=candidate.target.name,
        present=candidate.present,
        release=release.release,
        kind=Kind.UNDECIDED,
    )
    try:
        return blank.model_copy(update={"facts": _facts(candidate, release.release), **_judge(candidate, release)})
    except PlanError as error:
        return blank.model_copy(update={"facts": _facts(candidate, release.release), **_refused(error.mistakes)})
    except UsageError as error:  # the release is older than all that Enginery knows
        return blank.model_copy(update={"kind": Kind.UNSUPPORTED, **_reason(error)})
    except (SourceError, RegistryError) as error:
        return blank.model_copy(update=_reason(error))


def _reason(error: EngineryError) -> dict[str, object]:
    reason = f"{error.subject}: {error.problem}" if error.subject else error.problem
    return {"reason": reason, "remedy": error.remedy}


def _judge(candidate: Candidate, release: ListedRelease) -> dict[str, object]:
    spec = rebuild_spec(candidate.spec, {candidate.target.name: release.release})
    plan = make_plan(spec, candidate.resolver)
    (target,) = plan.targets
    toolchain = _toolchain(plan)
    found: dict[str, object] = {"backend": target.backend, "build_id": target.build_id}
    if _is_published(candidate.spec, target.build_id):
        return found | {"kind": Kind.BUILT, "reason": f"{target.build_id} is published"}
    if lacking := _lacking_wheel(toolchain, release, candidate.listing):
        problem, remedy = lacking
        return found | {"kind": Kind.NO_TOOLCHAIN, "reason": problem, "remedy": remedy}
    return found | {
        "kind": Kind.REBUILD,
        "reason": f"it is listed, and the spec can be built for it{_where(toolchain)}",
    }


def _toolchain(plan: Plan) -> ToolchainIdentity | None:
    """The environment of the release's own commands: the one in which the engine is validated."""
    return next((step.toolchain for step in plan.steps if step.step.stage is Stage.VALIDATE), None)


def _where(toolchain: ToolchainIdentity | None) -> str:
    """The environment that the commands would run in, where there is one."""
    if toolchain is None:
        return ""
    image = f" {toolchain.image}" if toolchain.image else ""
    return f" in toolchain {toolchain.name} ({toolchain.kind}{image})"


def _is_published(spec: Spec, build_id: str) -> bool:
    return spec.publish is not None and Registry(spec.publish.to).exists(spec.name, build_id)


def _lacking_wheel(
    toolchain: ToolchainIdentity | None, release: ListedRelease, listing: Listing
) -> tuple[str, str] | None:
    """Why a `venv` of TensorRT-LLM cannot be made, and the remedy. Only the names of the files are used."""
    if toolchain is None or toolchain.kind != "venv" or not toolchain.version(PACKAGE):
        return None
    if release.has_wheel_for(toolchain.python):
        return None
    offered = ", ".join(f"{file.name} ({human_bytes(file.size)})" if file.size else file.name for file in release.files)
    silent = f"; not candidate, as it did not answer: {'; '.join(listing.silent)}" if listing.silent else ""
    problem = (
        f"no wheel for Python {toolchain.python} is listed, only {offered}: NVIDIA's source packages are stubs{silent}"
    )
    remedy = "add NVIDIA's package index, or a mirror of it, to your pip configuration, or use toolchain: container"
    return problem, remedy


def _refused(mistakes: Sequence[str]) -> dict[str, object]:
    """The verdict for a plan that these findings stop. It is undecided if only the model's source is the problem."""
    of_source = [mistake for mistake in mistakes if not code_of(mistake)]
    kinds = {BY_CODE.get(code, Kind.UNSUPPORTED) for mistake in mistakes if (code := code_of(mistake))}
    kind = next((kind for kind in FIRST_OF if kind in kinds), Kind.UNDECIDED)
    reasons = [OF_TARGET.sub("", mistake) for mistake in mistakes if mistake not in of_source] or of_source
    remedy = PIN_IT if any(code_of(mistake) == NO_PINS for mistake in mistakes) else ""
    return {"kind": kind, "reason": "; ".join(reasons), "remedy": remedy}


def _facts(candidate: Candidate, release: str) -> str:
    """The release whose facts stand in for those of an unknown release; empty for a known one."""
    if candidate.listing.project != PACKAGE:
        return ""
    engines = candidate.target.backend != BackendName.PYTORCH and facts.builds_engines(release)
    origin = (flags_of(release) if engines else arguments(release)).provenance
    return origin.release if origin.certainty is Certainty.NEAREST else ""

"""What new releases mean for the targets of a fleet's specs.

Each target gets verdicts on the releases from the newest down to the first that can be built. For a verdict the target
is planned for the release, as if the spec had named it. Then the registry is searched for that build, and the package
index for the release's wheel. Nothing is installed.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from enginery.backends import ONNXRUNTIME_PACKAGES, Request
from enginery.core.errors import EngineryError, PlanError, RegistryError, SourceError, ToolchainError, UsageError
from enginery.core.model import Frozen
from enginery.core.text import human_bytes
from enginery.core.versions import is_range, is_version, mistake
from enginery.pipeline.plan import Machine, Resolver, make_plan
from enginery.registry import Registry
from enginery.releases import Certainty, ListedRelease, Listing, arguments, facts, flags_of
from enginery.sources import resolve
from enginery.spec import BackendName, Releases, Spec, Target, code_of, gpus
from enginery.store import Stage
from enginery.toolchains import PACKAGE, ToolchainIdentity

ListReleases = Callable[[str], Listing]
"""Lists the releases of a project in the package indexes."""

A = TypeVar("A")
R = TypeVar("R")


class Kind(StrEnum):
    """What can be done with a release for a target."""

    REBUILD = "rebuild"
    """It can be built, and is not built yet."""
    BUILT = "already built"
    """The registry has that build."""
    CURRENT = "current"
    """There is no newer release than the spec's own."""
    CHECKPOINT_ONLY = "checkpoint-only"
    """The release no longer builds engines."""
    UNSUPPORTED_FLAG = "unsupported flag"
    """The release does not accept an option that the spec sets."""
    UNSUPPORTED = "unsupported"
    """The release cannot build this for another reason: model, GPU, precision, memory."""
    NO_TOOLCHAIN = "toolchain not installable"
    """The environment for the release's commands cannot be made."""
    NO_SUCH_RELEASE = "no such release"
    """The spec names a release that the package index does not list."""
    UNDECIDED = "undecided"
    """No verdict is possible: an index, a source or a registry did not answer."""


class Verdict(Frozen):
    """What one release means for one target of a spec.

    Attributes:
        backend: the backend it is built with; empty when that is not decided.
        present: the release that the spec is built for now; empty for none.
        reason: why, with the facts that were compared.
        remedy: what to change; empty if nothing must be changed.
        facts: the release whose facts were used, because nothing is known of `release`; else empty.
        build_id: the id of the build, if it can be built.
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
        """The reason, what to do, and `facts` if it is not empty."""
        then = f" -> {self.remedy}" if self.remedy else ""
        facts = f" (nothing is recorded of {self.release}: facts of {self.facts})" if self.facts else ""
        return f"{self.reason}{then}{facts}"


KIND_BY_CODE: Mapping[str, Kind] = {
    "E103": Kind.CHECKPOINT_ONLY,
    **dict.fromkeys(("E122", "E160", "E161", "E163", "E403", "E404"), Kind.UNSUPPORTED_FLAG),
    **dict.fromkeys(("E165", "E166", "E167", "E168", "W166", "W169"), Kind.UNSUPPORTED_FLAG),
    **dict.fromkeys(("E180", "E301", "E302"), Kind.NO_TOOLCHAIN),
}
"""Code of a finding -> the verdict that follows from it. For all other codes, `UNSUPPORTED` follows."""
KIND_PRIORITY = (Kind.CHECKPOINT_ONLY, Kind.UNSUPPORTED, Kind.UNSUPPORTED_FLAG, Kind.NO_TOOLCHAIN)
"""If several findings stop a plan, the first of these kinds is the verdict."""

FINAL_KINDS = frozenset({Kind.REBUILD, Kind.BUILT, Kind.UNDECIDED})
"""After one of these verdicts, older releases get no verdict."""

NO_PINS = "E302"
PIN_IT = "write a pin file for the release, as infra/toolchains/README.md says"
CORRECT_IT = "correct the target's release"
CAN_BE_BUILT = "it is listed, and the spec can be built for it"
ADD_INDEX = "add NVIDIA's package index, or a mirror of it, to your pip configuration, or use toolchain: container"
TARGET_PREFIX = re.compile(r"^targets\.0 \([^)]*\)\.")
"""The beginning of each finding of a plan for one target. A verdict leaves it out: it names the target itself."""


class Candidate(NamedTuple):
    """A target that may be built for another release.

    Attributes:
        present: the release it is built for now; empty for none.
        listing: the releases of its backend in the package index.
        resolver: resolves the spec's source.
    """

    spec: Spec
    target: Target
    present: str
    listing: Listing
    resolver: Resolver

    @property
    def is_missing(self) -> bool:
        """Whether the spec names a release that no index lists. False if an index did not answer: it might list it."""
        wanted = self.target.release
        return is_version(wanted) and self.listing.find(wanted) is None and not self.listing.silent

    def verdict(self, kind: Kind, release: str = "", **more: str) -> Verdict:
        """A verdict on a release; when left out, on the release that the target is built for now."""
        return Verdict(
            spec=self.spec.name,
            target=self.target.name,
            present=self.present,
            release=release or self.present or self.target.release,
            kind=kind,
            **more,
        )


def fleet_verdicts(specs: Sequence[Spec], list_releases: ListReleases, resolver: Resolver = resolve) -> list[Verdict]:
    """The verdicts on each spec's targets, in the order of the specs. The releases of each project are listed once.

    A target gets verdicts on the releases that the spec's policy admits and that are newer than its present one, the
    newest first. The verdicts end with the first release that can be built, is built, or cannot be decided.
    """
    list_once, resolve_once = _once(list_releases, ToolchainError), _once(resolver, SourceError)
    return [verdict for spec in specs for verdict in _spec_verdicts(spec, list_once, resolve_once)]


def rebuild_spec(spec: Spec, targets: dict[str, str]) -> Spec:
    """The spec of a rebuild: only the given targets, each for another release.

    Nothing is rolled out, and only the channel `releases.build_channel` is moved, so nothing that serves changes. Up to
    publishing, the steps have the same keys as if the spec itself named these releases.
    """
    chosen = tuple(
        target.model_copy(update={"release": targets[target.name]}) for target in spec.targets if target.name in targets
    )
    publish = spec.publish and spec.publish.model_copy(update={"channel": spec.releases.build_channel})
    changes = {"targets": chosen, "publish": publish, "rollout": None, "releases": Releases()}
    return spec.model_copy(update=changes)


def with_prereleases(spec: Spec) -> Spec:
    """The spec with a policy that also admits previews."""
    return spec.model_copy(update={"releases": spec.releases.model_copy(update={"prereleases": True})})


def _once(call: Callable[[A], R], errors: type[Exception]) -> Callable[[A], R]:
    """The same function, called once for each argument. Later calls get the same result, or the same error."""
    results: dict[str, R | Exception] = {}

    def remembered(argument: A) -> R:
        key = repr(argument)  # a source has no hash
        if key not in results:
            try:
                results[key] = call(argument)
            except errors as error:
                results[key] = error
        result = results[key]
        if isinstance(result, Exception):
            raise result
        return result

    return remembered


def _spec_verdicts(spec: Spec, list_releases: ListReleases, resolver: Resolver) -> Iterator[Verdict]:
    machine = Machine()
    for target in spec.targets:
        if spec.releases.targets and target.name not in spec.releases.targets:
            continue
        try:
            request = Request(spec, target, machine.gpu_of(target))
            yield from _verdicts(_candidate(request, machine, list_releases, resolver))
        except (ToolchainError, UsageError) as error:
            about = {"spec": spec.name, "target": target.name, "release": target.release}
            reason = f"{error.subject}: {error.problem}"
            yield Verdict(kind=Kind.UNDECIDED, reason=reason, remedy=error.remedy, **about)


def _candidate(request: Request, machine: Machine, list_releases: ListReleases, resolver: Resolver) -> Candidate:
    backend = machine.backend_of(request)
    try:
        present = backend.release(request.target)
    except PlanError:  # the backend does not know the release that the spec names
        present = request.target.release if is_version(request.target.release) else ""
    project = PACKAGE
    if backend.name is BackendName.ONNXRUNTIME:
        project = ONNXRUNTIME_PACKAGES["cpu" if request.gpu == gpus.CPU else "cuda"]
    return Candidate(request.spec, request.target, present, list_releases(project), resolver)


def _verdicts(candidate: Candidate) -> Iterator[Verdict]:
    if problem := mistake(candidate.target.release):
        yield candidate.verdict(Kind.NO_SUCH_RELEASE, reason=problem, remedy=CORRECT_IT)
        return
    newer = _newer_releases(candidate)
    if not newer or candidate.is_missing:
        yield _nothing_newer(candidate)
    for release in reversed(newer):
        verdict = _judge(candidate, release)
        yield verdict
        if verdict.kind in FINAL_KINDS:
            return


def _newer_releases(candidate: Candidate) -> list[ListedRelease]:
    """The releases newer than the present one that the policy and the spec admit, oldest first."""
    policy, wanted = candidate.spec.releases, candidate.target.release
    ranges = [SpecifierSet(policy.within), SpecifierSet(wanted if is_range(wanted) else "")]
    return [
        release
        for release in candidate.listing.usable(prereleases=policy.prereleases)
        if all(one.contains(release.version, prereleases=True) for one in ranges)
        and (not candidate.present or release.version > Version(candidate.present))
    ]


def _nothing_newer(candidate: Candidate) -> Verdict:
    listing, wanted = candidate.listing, candidate.target.release
    usable = listing.usable(prereleases=candidate.spec.releases.prereleases)
    newest = (
        f"the newest listed is {usable[-1].release}" if usable else "only previews and withdrawn releases are listed"
    )
    if candidate.is_missing:
        problem = f"the spec names {listing.project} {wanted}, which no package index lists; {newest}"
        return candidate.verdict(Kind.NO_SUCH_RELEASE, reason=problem, remedy=CORRECT_IT)
    found = listing.find(candidate.present) if candidate.present else None
    withdrawn = "; the spec's release was withdrawn from the index" if found is not None and found.yanked else ""
    return candidate.verdict(Kind.CURRENT, reason=f"no newer release that the spec admits: {newest}{withdrawn}")


def _judge(candidate: Candidate, release: ListedRelease) -> Verdict:
    """The verdict on a newer release for a target."""
    blank = candidate.verdict(Kind.UNDECIDED, release.release)
    try:
        found = _planned(candidate, release)
        return blank.model_copy(update={"facts": _facts(candidate, release.release), **found})
    except UsageError as error:  # the release is older than all that Enginery knows
        return blank.model_copy(update={"kind": Kind.UNSUPPORTED, **_reason(error)})
    except (SourceError, RegistryError) as error:
        return blank.model_copy(update=_reason(error))


def _reason(error: EngineryError) -> dict[str, Any]:
    reason = f"{error.subject}: {error.problem}" if error.subject else error.problem
    return {"reason": reason, "remedy": error.remedy}


def _planned(candidate: Candidate, release: ListedRelease) -> dict[str, Any]:
    """Plan the target for the release, and return fields of the verdict. Mistakes in the plan make a verdict, too."""
    spec = rebuild_spec(candidate.spec, {candidate.target.name: release.release})
    try:
        plan = make_plan(spec, candidate.resolver)
    except PlanError as error:
        return _refused(error.mistakes)
    (target,) = plan.targets
    found = {"backend": target.backend, "build_id": target.build_id}
    if spec.publish is not None and Registry(spec.publish.to).exists(spec.name, target.build_id):
        return found | {"kind": Kind.BUILT, "reason": f"{target.build_id} is published"}
    # The engine is validated in the environment in which the release's own commands run.
    toolchain = next((step.toolchain for step in plan.steps if step.step.stage is Stage.VALIDATE), None)
    if toolchain is None:
        return found | {"kind": Kind.REBUILD, "reason": CAN_BE_BUILT}
    if missing := _missing_wheel(toolchain, release, candidate.listing):
        return found | {"kind": Kind.NO_TOOLCHAIN, "reason": missing, "remedy": ADD_INDEX}
    image = f" {toolchain.image}" if toolchain.image else ""
    reason = f"{CAN_BE_BUILT} in toolchain {toolchain.name} ({toolchain.kind}{image})"
    return found | {"kind": Kind.REBUILD, "reason": reason}


def _missing_wheel(toolchain: ToolchainIdentity, release: ListedRelease, listing: Listing) -> str:
    """Why a `venv` of TensorRT-LLM cannot be made; empty when it can. Only names of files are compared."""
    is_needed = toolchain.kind == "venv" and toolchain.version(PACKAGE)
    if not is_needed or release.has_wheel_for(toolchain.python):
        return ""
    offered = ", ".join(f"{file.name} ({human_bytes(file.size)})" if file.size else file.name for file in release.files)
    silent = f"; left out, because there was no answer: {'; '.join(listing.silent)}" if listing.silent else ""
    return (
        f"no wheel for Python {toolchain.python} is listed, only {offered}: NVIDIA's source packages are stubs{silent}"
    )


def _refused(mistakes: Sequence[str]) -> dict[str, Any]:
    """The verdict for a plan that these findings stop. It is undecided if only the model's source is the problem."""
    of_source = [mistake for mistake in mistakes if not code_of(mistake)]
    kinds = {KIND_BY_CODE.get(code, Kind.UNSUPPORTED) for mistake in mistakes if (code := code_of(mistake))}
    kind = next((kind for kind in KIND_PRIORITY if kind in kinds), Kind.UNDECIDED)
    reasons = [TARGET_PREFIX.sub("", mistake) for mistake in mistakes if mistake not in of_source] or of_source
    remedy = PIN_IT if any(code_of(mistake) == NO_PINS for mistake in mistakes) else ""
    return {"kind": kind, "reason": "; ".join(reasons), "remedy": remedy}


def _facts(candidate: Candidate, release: str) -> str:
    """The release whose facts are used in place of those of an unknown release; empty for a known release."""
    if candidate.listing.project != PACKAGE:
        return ""
    engines = candidate.target.backend != BackendName.PYTORCH and facts.builds_engines(release)
    origin = (flags_of(release) if engines else arguments(release)).provenance
    return origin.release if origin.certainty is Certainty.NEAREST else ""

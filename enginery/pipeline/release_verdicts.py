"""The verdicts for a fleet: for each target, on the releases from the newest down to the first that can be built."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from enginery.backends import ONNXRUNTIME_PACKAGES, Request, backend_for
from enginery.core.errors import PlanError, SourceError, ToolchainError, UsageError
from enginery.core.versions import is_range, is_version, mistake
from enginery.pipeline.plan import Machine, Resolver
from enginery.pipeline.verdict import Candidate, Kind, Verdict, judge
from enginery.releases import ListedRelease, Listing
from enginery.sources import resolve
from enginery.spec import BackendName, Spec, gpus
from enginery.toolchains import PACKAGE

ListReleases = Callable[[str], Listing]
"""Lists the releases of a project in the package indexes."""

A = TypeVar("A")
R = TypeVar("R")

ENDS = frozenset({Kind.REBUILD, Kind.BUILT, Kind.UNDECIDED})
"""Verdicts after which older releases get none."""
CORRECT_IT = "correct the target's release"


def fleet_verdicts(specs: Sequence[Spec], list_releases: ListReleases, resolver: Resolver = resolve) -> list[Verdict]:
    """The verdicts on each spec's targets, in the order of the specs. Each project is listed once.

    A target gets a verdict on each release from the newest that the spec's policy admits down to the one it has now.
    The last verdict is on the first release that can be built, or on which no verdict is possible.
    """
    list_once, resolve_once = _once(list_releases, ToolchainError), _once(resolver, SourceError)
    return [verdict for spec in specs for verdict in _spec_verdicts(spec, list_once, resolve_once)]


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
    watched = spec.releases.targets or tuple(target.name for target in spec.targets)
    for target in spec.targets:
        if target.name not in watched:
            continue
        blank = Verdict(spec=spec.name, target=target.name, release=target.release, kind=Kind.UNDECIDED)
        try:
            request = Request(spec, target, machine.gpu_of(target))
            yield from _verdicts(_candidate(request, machine, list_releases, resolver))
        except (ToolchainError, UsageError) as error:
            yield blank.model_copy(update={"reason": f"{error.subject}: {error.problem}", "remedy": error.remedy})


def _candidate(request: Request, machine: Machine, list_releases: ListReleases, resolver: Resolver) -> Candidate:
    backend = machine.backend_of(request)
    try:
        present = backend.release(request.target)
    except PlanError:  # the backend does not know the release that the spec names
        present = request.target.release if is_version(request.target.release) else ""
    return Candidate(request.spec, request.target, present, list_releases(project_of(request)), resolver)


def project_of(request: Request) -> str:
    """The project on a package index whose releases a target's backend has."""
    if backend_for(request).name is not BackendName.ONNXRUNTIME:
        return PACKAGE
    return ONNXRUNTIME_PACKAGES["cpu" if request.gpu == gpus.CPU else "cuda"]


def _verdicts(candidate: Candidate) -> Iterator[Verdict]:
    if problem := mistake(candidate.target.release):
        yield _no_such_release(candidate, problem)
        return
    newer = _newer_releases(candidate)
    if not newer or _is_missing(candidate):
        yield _nothing_newer(candidate)
    for release in reversed(newer):
        verdict = judge(candidate, release)
        yield verdict
        if verdict.kind in ENDS:
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


def _is_missing(candidate: Candidate) -> bool:
    """Whether the spec names a release that no index has. An index that did not answer might have it."""
    wanted = candidate.target.release
    return is_version(wanted) and candidate.listing.find(wanted) is None and not candidate.listing.silent


def _blank(candidate: Candidate, kind: Kind) -> Verdict:
    """A verdict on the release that the spec has now."""
    return Verdict(
        spec=candidate.spec.name,
        target=candidate.target.name,
        present=candidate.present,
        release=candidate.present or candidate.target.release,
        kind=kind,
    )


def _no_such_release(candidate: Candidate, reason: str) -> Verdict:
    return _blank(candidate, Kind.NO_SUCH_RELEASE).model_copy(update={"reason": reason, "remedy": CORRECT_IT})


def _nothing_newer(candidate: Candidate) -> Verdict:
    usable = candidate.listing.usable(prereleases=candidate.spec.releases.prereleases)
    newest = (
        f"the newest listed is {usable[-1].release}" if usable else "none is listed but previews and withdrawn ones"
    )
    if _is_missing(candidate):
        problem = f"the spec names {candidate.listing.project} {candidate.target.release}, which no package index lists"
        return _no_such_release(candidate, f"{problem}; {newest}")
    found = candidate.listing.find(candidate.present) if candidate.present else None
    withdrawn = "; the spec's own was withdrawn from the index" if found is not None and found.yanked else ""
    reason = f"no newer release that the spec admits: {newest}{withdrawn}"
    return _blank(candidate, Kind.CURRENT).model_copy(update={"reason": reason})


def with_prereleases(spec: Spec) -> Spec:
    """The spec with a policy that also admits previews."""
    return spec.model_copy(update={"releases": spec.releases.model_copy(update={"prereleases": True})})

"""The verdicts for a fleet: for each target, on the releases from the newest down to the first that can be built."""

from collections.abc import Callable, Iterator, Sequence

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from enginery import gpus
from enginery.backends import Request, backend_for
from enginery.errors import PlanError, ToolchainError, UsageError
from enginery.plan import Machine, Resolver
from enginery.release_pins import PACKAGE
from enginery.releases.listing import ListedRelease, Listing
from enginery.sources import resolve
from enginery.spec import BackendName, Spec
from enginery.versions import is_range, is_version, mistake
from enginery.watch.judging import Judged, judge
from enginery.watch.trial import once
from enginery.watch.verdicts import Kind, Verdict

Ask = Callable[[str], Listing]
"""Gives what the package indexes list of a project."""
ENDS = frozenset({Kind.REBUILD, Kind.BUILT, Kind.UNDECIDED})
"""Verdicts after which no older release is looked at."""

CORRECT_IT = "correct the target's release"


def fleet_verdicts(specs: Sequence[Spec], ask: Ask, resolver: Resolver = resolve) -> list[Verdict]:
    """The verdicts on each spec's targets, in the order of the specs. Each project is asked for once.

    For a target the releases are gone through from the newest that the spec's policy admits down to the one it has
    now, and no further than the first that can be built, or of which nothing could be found out: one verdict each.
    """
    asking = _asked_once(ask)
    return [verdict for spec in specs for verdict in _spec_verdicts(spec, asking, once(resolver))]


def _asked_once(ask: Ask) -> Ask:
    answers: dict[str, Listing | ToolchainError] = {}

    def asking(project: str) -> Listing:
        if project not in answers:
            try:
                answers[project] = ask(project)
            except ToolchainError as error:
                answers[project] = error
        answer = answers[project]
        if isinstance(answer, ToolchainError):
            raise answer
        return answer

    return asking


def _spec_verdicts(spec: Spec, ask: Ask, resolver: Resolver) -> Iterator[Verdict]:
    machine = Machine()
    watched = spec.releases.targets or tuple(target.name for target in spec.targets)
    for target in spec.targets:
        if target.name not in watched:
            continue
        blank = Verdict(spec=spec.name, target=target.name, release=target.release, kind=Kind.UNDECIDED)
        try:
            request = Request(spec, target, machine.gpu_of(target))
            yield from _verdicts(_asked_for(request, machine, ask, resolver))
        except (ToolchainError, UsageError) as error:
            yield blank.model_copy(update={"reason": f"{error.subject}: {error.problem}", "remedy": error.remedy})


def _asked_for(request: Request, machine: Machine, ask: Ask, resolver: Resolver) -> Judged:
    backend = machine.backend_of(request)
    try:
        present = backend.release(request.target)
    except PlanError:  # a release that the backend does not know is still the one that the spec has
        present = request.target.release if is_version(request.target.release) else ""
    return Judged(request.spec, request.target, present, ask(project_of(request)), resolver)


def project_of(request: Request) -> str:
    """The project on a package index whose releases a target's backend has."""
    if backend_for(request).name is not BackendName.ONNXRUNTIME:
        return PACKAGE
    from enginery.backends.onnxruntime import PACKAGES  # noqa: PLC0415  only its own targets need it

    return PACKAGES["cpu" if request.gpu == gpus.CPU else "cuda"]


def _verdicts(asked: Judged) -> Iterator[Verdict]:
    if problem := mistake(asked.target.release):
        yield _blank(asked, Kind.NO_SUCH_RELEASE).model_copy(update={"reason": problem, "remedy": CORRECT_IT})
        return
    candidates = _candidates(asked)
    if not candidates or _is_missing(asked):
        yield _nothing_newer(asked)
    for release in reversed(candidates):
        verdict = judge(asked, release)
        yield verdict
        if verdict.kind in ENDS:
            return


def _candidates(asked: Judged) -> list[ListedRelease]:
    """The releases newer than the present one that the policy and the spec admit, oldest first."""
    policy, wanted = asked.spec.releases, asked.target.release
    ranges = [SpecifierSet(policy.within), SpecifierSet(wanted if is_range(wanted) else "")]
    return [
        release
        for release in asked.listing.usable(prereleases=policy.prereleases)
        if all(one.contains(release.version, prereleases=True) for one in ranges)
        and (not asked.present or release.version > Version(asked.present))
    ]


def _is_missing(asked: Judged) -> bool:
    """Whether the spec names a release that no index has; an index that did not answer might have it."""
    wanted = asked.target.release
    return is_version(wanted) and asked.listing.find(wanted) is None and not asked.listing.silent


def _blank(asked: Judged, kind: Kind) -> Verdict:
    """A verdict on the release that the spec has now."""
    return Verdict(
        spec=asked.spec.name,
        target=asked.target.name,
        present=asked.present,
        release=asked.present or asked.target.release,
        kind=kind,
    )


def _nothing_newer(asked: Judged) -> Verdict:
    usable = asked.listing.usable(prereleases=asked.spec.releases.prereleases)
    newest = (
        f"the newest listed is {usable[-1].release}" if usable else "none is listed but previews and withdrawn ones"
    )
    if _is_missing(asked):
        problem = f"the spec names {asked.listing.project} {asked.target.release}, which no package index lists"
        told = {"reason": f"{problem}; {newest}", "remedy": CORRECT_IT}
        return _blank(asked, Kind.NO_SUCH_RELEASE).model_copy(update=told)
    found = asked.listing.find(asked.present) if asked.present else None
    withdrawn = "; the spec's own was withdrawn from the index" if found is not None and found.yanked else ""
    reason = f"no newer release that the spec admits: {newest}{withdrawn}"
    return _blank(asked, Kind.CURRENT).model_copy(update={"reason": reason})


def with_prereleases(spec: Spec) -> Spec:
    """The spec with a policy that counts previews, too."""
    return spec.model_copy(update={"releases": spec.releases.model_copy(update={"prereleases": True})})

"""The verdicts for a fleet: for each target, on the releases from the newest down to the first that can be built."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from enginery.backends import ONNXRUNTIME_PACKAGES, Request, backend_for
from enginery.core.errors import EngineryError, PlanError, RegistryError, SourceError, ToolchainError, UsageError
from enginery.core.model import Frozen
from enginery.core.text import human_bytes
from enginery.core.versions import is_range, is_version, mistake
from enginery.pipeline.plan import Machine, Plan, PlannedTarget, Resolver, make_plan
from enginery.registry import Registry
from enginery.releases import Certainty, ListedRelease, Listing, arguments, facts, flags_of
from enginery.sources import ResolvedSource, resolve
from enginery.spec import BackendName, Releases, Source, Spec, Target, code_of, gpus
from enginery.store import Stage
from enginery.toolchains import PACKAGE, ToolchainIdentity

# A target planned for another release, as if the spec had named it.


class Trial(NamedTuple):
    """A plan for one target and one release."""

    plan: Plan
    target: PlannedTarget

    @property
    def toolchain(self) -> ToolchainIdentity | None:
        """The environment of the release's own commands: the one that asks the engine its prompts."""
        asking = (step for step in self.plan.steps if step.step.stage is Stage.VALIDATE)
        return next((step.toolchain for step in asking), None)


def rebuild_spec(spec: Spec, targets: dict[str, str]) -> Spec:
    """The spec of a rebuild: some targets, each for another release, published where nothing serves from.

    Nothing is rolled out, and no channel but `releases.build_channel` is moved. The step keys are those that the spec
    itself would have with these releases, up to publishing.

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


def tried(spec: Spec, target: Target, release: str, resolver: Resolver) -> Trial:
    """Plan a target for a release.

    Raises:
        PlanError: with what the release cannot do.
        SourceError: when the model cannot be asked for.
    """
    plan = make_plan(rebuild_spec(spec, {target.name: release}), resolver)
    return Trial(plan, plan.targets[0])


def once(resolver: Resolver) -> Resolver:
    """The resolver for one source, asked once: its answer, or its error, is given again."""
    answers: list[Callable[[], ResolvedSource]] = []

    def remembered(source: Source) -> ResolvedSource:
        if not answers:
            answers.append(_answer(resolver, source))
        return answers[0]()

    return remembered


def _answer(resolver: Resolver, source: Source) -> Callable[[], ResolvedSource]:
    try:
        found = resolver(source)
    except SourceError as error:
        kept = error

        def again() -> ResolvedSource:
            raise kept

        return again
    return lambda: found


# What a release means for a target.


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


# The verdict on one release for one target: planned, compared with the registry, its toolchain looked for.


BY_CODE: Mapping[str, Kind] = {
    "E103": Kind.CHECKPOINT_ONLY,
    **dict.fromkeys(("E122", "E160", "E161", "E163", "E403", "E404"), Kind.UNSUPPORTED_FLAG),
    **dict.fromkeys(("E180", "E301", "E302"), Kind.NO_TOOLCHAIN),
}
"""What a finding's code makes of a plan; any other one makes it unsupported."""
FIRST_OF = (Kind.CHECKPOINT_ONLY, Kind.UNSUPPORTED, Kind.UNSUPPORTED_FLAG, Kind.NO_TOOLCHAIN)
"""Which verdict counts where a plan is stopped by several things."""

NO_PINS = "E302"
PIN_IT = "write a pin file for the release, as infra/toolchains/README.md says"
OF_TARGET = re.compile(r"^targets\.0 \([^)]*\)\.")
"""How a trial's findings begin: it has one target, which is named beside the verdict."""


class Judged(NamedTuple):
    """A target to be judged.

    Attributes:
        spec: its spec.
        target: the target.
        present: the release it comes to now; empty for none.
        listing: what the package index lists of its backend.
        resolver: says what the spec's source is.
    """

    spec: Spec
    target: Target
    present: str
    listing: Listing
    resolver: Resolver


def judge(asked: Judged, release: ListedRelease) -> Verdict:
    """What a release means for a target."""
    blank = Verdict(
        spec=asked.spec.name,
        target=asked.target.name,
        present=asked.present,
        release=release.release,
        kind=Kind.UNDECIDED,
    )
    try:
        return blank.model_copy(update={"facts": _facts(asked, release.release), **_judge(asked, release)})
    except PlanError as error:
        return blank.model_copy(update={"facts": _facts(asked, release.release), **_refused(error.mistakes)})
    except UsageError as error:  # older than all that is known
        return blank.model_copy(update={"kind": Kind.UNSUPPORTED, **_said(error)})
    except (SourceError, RegistryError) as error:
        return blank.model_copy(update=_said(error))


def _said(error: EngineryError) -> dict[str, object]:
    reason = f"{error.subject}: {error.problem}" if error.subject else error.problem
    return {"reason": reason, "remedy": error.remedy}


def _judge(asked: Judged, release: ListedRelease) -> dict[str, object]:
    trial = tried(asked.spec, asked.target, release.release, asked.resolver)
    found: dict[str, object] = {"backend": trial.target.backend, "build_id": trial.target.build_id}
    if _is_published(asked.spec, trial):
        return found | {"kind": Kind.BUILT, "reason": f"{trial.target.build_id} is published"}
    if lacking := _lacking_wheel(trial, release, asked.listing):
        problem, remedy = lacking
        return found | {"kind": Kind.NO_TOOLCHAIN, "reason": problem, "remedy": remedy}
    return found | {"kind": Kind.REBUILD, "reason": f"it is listed, and the spec can be built for it{_where(trial)}"}


def _where(trial: Trial) -> str:
    """What the commands would run in, as far as that was looked at."""
    toolchain = trial.toolchain
    if toolchain is None:
        return ""
    image = f" {toolchain.image}" if toolchain.image else ""
    return f" in toolchain {toolchain.name} ({toolchain.kind}{image})"


def _is_published(spec: Spec, trial: Trial) -> bool:
    return spec.publish is not None and Registry(spec.publish.to).exists(spec.name, trial.target.build_id)


def _lacking_wheel(trial: Trial, release: ListedRelease, listing: Listing) -> tuple[str, str] | None:
    """Why a `venv` of TensorRT-LLM cannot be made, told by the names of the files alone: nothing is installed."""
    toolchain = trial.toolchain
    if toolchain is None or toolchain.kind != "venv" or not toolchain.version(PACKAGE):
        return None
    if release.has_wheel_for(toolchain.python):
        return None
    offered = ", ".join(f"{file.name} ({human_bytes(file.size)})" if file.size else file.name for file in release.files)
    silent = f"; not asked, as it did not answer: {'; '.join(listing.silent)}" if listing.silent else ""
    problem = (
        f"no wheel for Python {toolchain.python} is listed, only {offered}: NVIDIA's source packages are stubs{silent}"
    )
    remedy = "add NVIDIA's package index, or a mirror of it, to your pip configuration, or use toolchain: container"
    return problem, remedy


def _refused(mistakes: Sequence[str]) -> dict[str, object]:
    """The verdict for a plan that these findings stop; the model's source alone decides nothing."""
    of_source = [mistake for mistake in mistakes if not code_of(mistake)]
    kinds = {BY_CODE.get(code, Kind.UNSUPPORTED) for mistake in mistakes if (code := code_of(mistake))}
    kind = next((kind for kind in FIRST_OF if kind in kinds), Kind.UNDECIDED)
    told = [OF_TARGET.sub("", mistake) for mistake in mistakes if mistake not in of_source] or of_source
    remedy = PIN_IT if any(code_of(mistake) == NO_PINS for mistake in mistakes) else ""
    return {"kind": kind, "reason": "; ".join(told), "remedy": remedy}


def _facts(asked: Judged, release: str) -> str:
    """The release whose facts are taken for one that nothing is recorded of; empty where they are its own."""
    if asked.listing.project != PACKAGE:
        return ""

    engines = asked.target.backend != BackendName.PYTORCH and facts.builds_engines(release)
    origin = (flags_of(release) if engines else arguments(release)).provenance
    return origin.release if origin.certainty is Certainty.NEAREST else ""


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

    return ONNXRUNTIME_PACKAGES["cpu" if request.gpu == gpus.CPU else "cuda"]


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

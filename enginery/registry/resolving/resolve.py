"""Finds exactly one build that matches the query and runs on the machine, or says why there is none.

Without a channel, every published build of the model that passed its gates is a candidate. Of the builds for one target
the highest release is chosen, and of those the build published last. With a channel, the builds that it points at are
the candidates, also builds that failed a gate, because somebody has pointed the channel at them on purpose.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from packaging.version import Version

from enginery.builds import BUILD_ID_DIGITS, BuildTarget, Manifest
from enginery.core.errors import RegistryError, UsageError
from enginery.core.model import Frozen
from enginery.core.progress import Log
from enginery.core.threads import side_by_side
from enginery.core.versions import is_version
from enginery.registry.channels import ChannelPointer
from enginery.registry.layout import channel_reference
from enginery.registry.reading import READS_AT_ONCE, PublishedBuilds
from enginery.registry.resolving.compatibility import CPU_ONLY, Host, failures, fit_warnings, gpu_match, misfits
from enginery.registry.resolving.query import AUTO, BuildQuery

BUILD_ID = re.compile(rf".+-[0-9a-f]{{{BUILD_ID_DIGITS}}}")
SHOWN = 10

OPTIONS: dict[str, Callable[[Manifest], str]] = {
    "--target": lambda manifest: manifest.target.name,
    "--backend": lambda manifest: manifest.target.backend,
    "--precision": lambda manifest: manifest.target.precision,
    "--world-size": lambda manifest: str(manifest.target.world_size),
    "--release": lambda manifest: manifest.target.release,
    "--gpu": lambda manifest: manifest.target.gpu,
    "--build": lambda manifest: manifest.build_id,
}
"""Options that can tell builds apart, with the function that gives a build's value; the most useful option first."""


class Miss(NamedTuple):
    """A build that does not fit, and every reason against it in words."""

    reference: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.reference}: {'; '.join(self.reasons)}"


def nearest(misses: Sequence[Miss]) -> list[Miss]:
    """The misses with the fewest reasons, those with fewest first; at most `SHOWN`."""
    return sorted(misses, key=lambda miss: len(miss.reasons))[:SHOWN]


class NothingFits(RegistryError):  # noqa: N818  the name says what happened
    """No build matches the query and runs on the machine.

    Attributes:
        misses: every build that was considered, with the reasons against it.
    """

    def __init__(self, query: BuildQuery, host: Host, misses: Sequence[Miss]) -> None:
        self.misses = tuple(misses)
        problem = "nothing is published there"
        if misses:
            problem = f"no build fits; the nearest:{_lines(nearest(misses), len(misses))}"
            where = query.described + (f" ({host.gpu.name})" if query.gpu == AUTO and host.gpu else "")
            remedy = "ask for something else, or build one for this: add a target to the spec"
        elif query.channel:
            where = f"channel {query.channel} of {query.model}" + (f" for {query.target}" if query.target else "")
            remedy = f"see where its channels point with `enginery channels {query.model}`"
        else:
            where, remedy = query.model, "see what is published with `enginery list`"
        super().__init__(problem, subject=where, remedy=remedy)


class SeveralFit(RegistryError):  # noqa: N818
    """Several builds fit equally well.

    Attributes:
        references: the builds, each as `MODEL/BUILD`.
        options: the options that tell them apart: option -> the values of these builds.
    """

    def __init__(self, query: BuildQuery, manifests: Sequence[Manifest]) -> None:
        self.references = tuple(manifest.reference for manifest in manifests)
        self.options = _distinguishing(manifests)
        lines = _lines([_line(manifest) for manifest in manifests[:SHOWN]], len(manifests))
        choices = " or ".join(f"{option} ({', '.join(values)})" for option, values in self.options.items())
        problem = f"{len(manifests)} builds fit equally well:{lines}"
        super().__init__(problem, subject=query.described, remedy=f"tell them apart with {choices}")


class Resolved(Frozen):
    """The one build that fits.

    Attributes:
        manifest: the build.
        uri: the address of the build's files.
        pointer: the channel pointer that led to the build; None when no channel was asked for.
        warnings: reasons for caution on this machine, in words; usually empty.
    """

    manifest: Manifest
    uri: str
    pointer: ChannelPointer | None = None
    warnings: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """The model's name."""
        return self.manifest.model

    @property
    def build_id(self) -> str:
        """The build's id, unique within the model."""
        return self.manifest.build_id

    @property
    def etag(self) -> str | None:
        """The ETag of the pointer; it changes when the channel is moved."""
        return self.pointer.etag if self.pointer else None


class Candidate(NamedTuple):
    """A build to consider, and the channel pointer that led to it, if any."""

    manifest: Manifest
    pointer: ChannelPointer | None = None


def resolve(registry: PublishedBuilds, query: BuildQuery) -> Resolved:
    """Find the one build that matches the query and runs on the machine. Raises the errors of `Registry.resolve`."""
    host = query.checked().host()
    (manifest, pointer), misses = choose(_candidates(registry, query), query, host)
    warnings = fit_warnings(manifest, host)
    if gpu_match(manifest, host) == CPU_ONLY and misses:
        warnings += (f"no GPU build fits: {'; '.join(map(str, nearest(misses)))}",)
    uri = str(registry.build_prefix(manifest.model, manifest.build_id).address)
    return Resolved(manifest=manifest, uri=uri, pointer=pointer, warnings=warnings)


def choose_build(registry: PublishedBuilds, query: BuildQuery, log: Log) -> tuple[Manifest, str | None]:
    """The manifest of the build that the user of a command wants, and the channel that led to it, if any.

    Args:
        registry: the registry.
        query: the build to find. If its `model` is a model's name, the build that fits is chosen. If it is a reference
            to a build, as `PublishedBuilds.find` takes it, that build is chosen without a check that it fits.
        log: takes the warnings about the build.

    Raises:
        UsageError: when the model is a reference to a build, and other options are given too.
        RegistryError: when there is no such build, or more than one.
    """
    if "/" in query.model or "@" in query.model or BUILD_ID.fullmatch(query.model):
        if given := query.model_dump(exclude={"model", "gpu"}, exclude_defaults=True):
            remedy = f"leave out {', '.join(given)}, or give the model's name alone"
            raise UsageError("names a build already", subject=query.model, remedy=remedy)
        _, at, channel_and_target = query.model.partition("@")
        return registry.find(query.model), channel_and_target.partition("/")[0] if at else None
    resolved = resolve(registry, query)
    for warning in resolved.warnings:
        log(f"warning: {warning}")
    return resolved.manifest, query.channel


def choose(candidates: Iterable[Candidate | Miss], query: BuildQuery, host: Host) -> tuple[Candidate, list[Miss]]:
    """The one candidate that fits, and the misses. A candidate that could not be read comes as a miss already.

    Raises:
        NothingFits: when no candidate fits.
        SeveralFit: when several fit equally well.
    """
    suitable: list[Candidate] = []
    misses: list[Miss] = []
    for candidate in candidates:
        if isinstance(candidate, Miss):
            misses.append(candidate)
        elif reasons := tuple(_reasons(candidate.manifest, query, host)):
            misses.append(Miss(candidate.manifest.reference, reasons))
        else:
            suitable.append(candidate)
    if not suitable:
        raise NothingFits(query, host, misses)
    least = min(gpu_match(candidate.manifest, host) for candidate in suitable)
    best = [candidate for candidate in suitable if gpu_match(candidate.manifest, host) == least]
    best = best if query.channel or query.build else _newest(best)
    if len(best) > 1:
        raise SeveralFit(query, [candidate.manifest for candidate in best])
    return best[0], misses


def _candidates(registry: PublishedBuilds, query: BuildQuery) -> list[Candidate | Miss]:
    if query.build is not None:
        return [Candidate(registry.find(f"{query.model}/{query.build}"))]
    if query.channel is not None:
        return _on_channel(registry, query, query.channel)
    found, unreadable = registry.manifests(query.model)
    return [*map(_unreadable, unreadable), *map(Candidate, found)]


def _on_channel(registry: PublishedBuilds, query: BuildQuery, channel: str) -> list[Candidate | Miss]:
    """The builds that the channel points at. With a target only its pointer is read, and nothing is listed."""
    unreadable: list[RegistryError] = []
    try:
        if query.target is not None:
            found = [pointer for pointer in [registry.channel(query.model, channel, query.target)] if pointer]
        else:
            found, unreadable = registry.pointers(query.model, channel)
    except RegistryError as error:
        if query.target is None and not error.transient:
            error.add_note("if you may not list the bucket, name the target too (--target): then nothing is listed")
        raise
    candidates = side_by_side(lambda pointer: _candidate_at(registry, pointer), found, threads=READS_AT_ONCE)
    return [*map(_unreadable, unreadable), *candidates]


def _candidate_at(registry: PublishedBuilds, pointer: ChannelPointer) -> Candidate | Miss:
    try:
        manifest = registry.read(pointer.model, pointer.build_id)
    except RegistryError as error:
        if error.transient:
            raise
        return _unreadable(error)
    if manifest is None:
        where = channel_reference(pointer.model, pointer.channel, pointer.target)
        return Miss(where, (f"points at {pointer.build_id}, which is not published any more",))
    return Candidate(manifest, pointer)


def _unreadable(error: RegistryError) -> Miss:
    return Miss(error.subject, (f"{error.problem}; {error.remedy}",))


def _reasons(manifest: Manifest, query: BuildQuery, host: Host) -> Iterable[str]:
    yield from query.differences(manifest)
    yield from misfits(manifest, host)
    if not (query.channel or query.build):
        yield from (f"failed a gate: {failure}" for failure in failures(manifest))


def _newest(candidates: Sequence[Candidate]) -> list[Candidate]:
    """One build for each target: that of the highest release, and of those the build published last."""
    kinds = [one.manifest.target.model_copy(update={"release": ""}) for one in candidates]
    ranks = [_rank(one.manifest) for one in candidates]
    highest: dict[BuildTarget, tuple[bool, Version, datetime]] = {}
    for kind, rank in zip(kinds, ranks, strict=True):
        highest[kind] = max(rank, highest.get(kind, rank))
    return [one for one, kind, rank in zip(candidates, kinds, ranks, strict=True) if rank == highest[kind]]


def _rank(manifest: Manifest) -> tuple[bool, Version, datetime]:
    """A sort key: higher releases and later builds are larger; a release that is not a version is the smallest."""
    release = manifest.target.release
    return is_version(release), Version(release if is_version(release) else "0"), manifest.created


def _distinguishing(manifests: Sequence[Manifest]) -> dict[str, list[str]]:
    found = {option: sorted({of(manifest) for manifest in manifests}) for option, of in OPTIONS.items()}
    differing = {option: values for option, values in found.items() if len(values) > 1}
    if len(differing) > 1:
        differing.pop("--build", None)  # ids always differ, so --build only helps when no other option does
    return differing


def _lines(shown: Sequence[object], count: int) -> str:
    """Each item of `shown` on its own line; then how many of `count` are not shown."""
    more = [f"and {count - len(shown)} more"] if count > len(shown) else []
    return "".join(f"\n  {line}" for line in [*shown, *more])


def _line(manifest: Manifest) -> str:
    target = manifest.target
    gpus = "1 GPU" if target.world_size == 1 else f"{target.world_size} GPUs"
    kind = f"target {target.name}, {target.backend} {target.release}, {target.precision}, {target.gpu}, {gpus}"
    return f"{manifest.reference}: {kind}"

"""The right build: exactly one that is what was asked for and runs in the place that was named, or why there is none.

Without a channel every published build of the model is looked at that passed its gates; of those for one target the
highest release counts, then the last one published. On a channel what it points at counts, whatever the gates said:
somebody has decided that.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from packaging.version import Version

from enginery.errors import RegistryError
from enginery.manifest import BuildTarget, Manifest
from enginery.parallel import side_by_side
from enginery.registry.asked import Asked
from enginery.registry.channels import ChannelPointer, Pointed
from enginery.registry.fitting import NOT_THE_GPU, Host, distance, misfits, remarks
from enginery.registry.gates import failures
from enginery.registry.layout import channel_reference
from enginery.registry.listing import READERS
from enginery.registry.reading import Registry
from enginery.registry.unresolved import Miss, NothingFits, SeveralFit, nearest
from enginery.steps import Frozen
from enginery.versions import is_version


class Resolved(Frozen):
    """The one build that fits.

    Attributes:
        manifest: the build.
        uri: the address of its files.
        pointer: the channel it was found on, as it was read, once; None for one that was found otherwise.
        etag: of the object the pointer was read from: while it stays, the channel has not been moved.
        warnings: what to know of running it there; mostly empty.
    """

    manifest: Manifest
    uri: str
    pointer: ChannelPointer | None = None
    etag: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """Its model."""
        return self.manifest.model

    @property
    def build_id(self) -> str:
        """Its id, unique within the model."""
        return self.manifest.build_id


@dataclass(frozen=True)
class Candidate:
    """A build to be looked at, and the channel it was found on."""

    manifest: Manifest
    pointed: Pointed | None = None


def resolve(registry: Registry, asked: Asked) -> Resolved:
    """Find the one build that fits.

    Raises:
        UsageError: when something asked for cannot be meant.
        NothingFits: with the near misses, and the reasons of each.
        SeveralFit: with the options that tell them apart.
        RegistryError: when the registry cannot be read.
    """
    asked = asked.checked()
    host = asked.host()
    candidates, broken = _candidates(registry, asked)
    chosen, misses = choose(candidates, asked, host, broken)
    manifest, pointed = chosen.manifest, chosen.pointed
    return Resolved(
        manifest=manifest,
        uri=str(registry.build_prefix(manifest.model, manifest.build_id).address),
        pointer=pointed.pointer if pointed else None,
        etag=pointed.etag if pointed else None,
        warnings=(*remarks(manifest, host), *_passed_over(manifest, host, misses)),
    )


def _candidates(registry: Registry, asked: Asked) -> tuple[list[Candidate], list[Miss]]:
    if asked.build is not None:
        return [Candidate(registry.find(f"{asked.model}/{asked.build}"))], []
    if asked.channel is not None:
        return _on_channel(registry, asked, asked.channel)
    found, unsound = registry.manifests(asked.model)
    return [Candidate(manifest) for manifest in found], [_unreadable(error) for error in unsound]


def _on_channel(registry: Registry, asked: Asked, channel: str) -> tuple[list[Candidate], list[Miss]]:
    """What the channel points at, each pointer read once."""
    if asked.target is not None:
        named = registry.pointed(asked.model, channel, asked.target)
        found, unsound = ([named] if named else []), list[RegistryError]()
    else:
        found, unsound = _listed(registry, asked.model, channel)
    looked = side_by_side(lambda one: _look(registry, one), found, threads=READERS)
    candidates = [one for one in looked if isinstance(one, Candidate)]
    return candidates, [*(one for one in looked if isinstance(one, Miss)), *map(_unreadable, unsound)]


def _listed(registry: Registry, model: str, channel: str) -> tuple[list[Pointed], list[RegistryError]]:
    try:
        return registry.pointers(model, channel)
    except RegistryError as error:
        if not error.transient:
            error.add_note("where the bucket may not be listed, name the target too (--target): nothing is listed then")
        raise


def _look(registry: Registry, pointed: Pointed) -> Candidate | Miss:
    pointer = pointed.pointer
    try:
        manifest = registry.read(pointer.model, pointer.build_id)
    except RegistryError as error:
        if error.transient:
            raise
        return _unreadable(error)
    if manifest is None:
        where = channel_reference(pointer.model, pointer.channel, pointer.target)
        return Miss(where, (f"points at {pointer.build_id}, which is not published any more",))
    return Candidate(manifest, pointed)


def _unreadable(error: RegistryError) -> Miss:
    return Miss(error.subject, (f"{error.problem}; {error.remedy}",))


def choose(
    candidates: Iterable[Candidate], asked: Asked, host: Host, broken: Sequence[Miss] = ()
) -> tuple[Candidate, list[Miss]]:
    """The one candidate that fits, and why the others do not.

    Args:
        candidates: what there is.
        asked: what is asked of the build.
        host: where it is to run.
        broken: builds that cannot be read, with the reasons.

    Raises:
        NothingFits: when none does.
        SeveralFit: when several do, none of them better than the others.
    """
    fitting: list[Candidate] = []
    misses = list(broken)
    for candidate in candidates:
        reasons = tuple(_reasons(candidate, asked, host))
        if reasons:
            misses.append(Miss(candidate.manifest.reference, reasons))
        else:
            fitting.append(candidate)
    if not fitting:
        raise NothingFits(asked, host, misses)
    least = min(distance(candidate.manifest, host) for candidate in fitting)
    best = [candidate for candidate in fitting if distance(candidate.manifest, host) == least]
    best = best if asked.channel or asked.build else _newest(best)
    if len(best) > 1:
        raise SeveralFit(asked, [candidate.manifest for candidate in best])
    return best[0], misses


def _reasons(candidate: Candidate, asked: Asked, host: Host) -> Iterable[str]:
    manifest = candidate.manifest
    yield from asked.differences(manifest)
    yield from misfits(manifest, host)
    if not (asked.channel or asked.build):
        yield from (f"failed a gate: {failure}" for failure in failures(manifest))


def _newest(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Of those that were built for the same, the highest release, and of these the last one published."""
    groups: dict[BuildTarget, list[Candidate]] = {}
    for candidate in candidates:
        kind = candidate.manifest.target.model_copy(update={"release": ""})
        groups.setdefault(kind, []).append(candidate)
    return [candidate for group in groups.values() for candidate in _greatest(group)]


def _greatest(group: Sequence[Candidate]) -> list[Candidate]:
    """Mostly one; more when two were published in the same moment."""
    orders = [(_order(one.manifest.target.release), one.manifest.created) for one in group]
    return [one for one, order in zip(group, orders, strict=True) if order == max(orders)]


def _order(release: str) -> tuple[bool, Version]:
    """Releases that are no versions go last."""
    return (True, Version(release)) if is_version(release) else (False, Version("0"))


def _passed_over(manifest: Manifest, host: Host, misses: Sequence[Miss]) -> Iterator[str]:
    """What would have been nearer, where only a build that leaves the GPU idle fits."""
    if distance(manifest, host) == NOT_THE_GPU and misses:
        yield f"nothing for the GPU fits: {'; '.join(map(str, nearest(misses)))}"

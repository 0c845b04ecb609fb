"""The right build: exactly one that is what was asked for and runs in the place that was named, or why there is none.

Without a channel every published build of the model is looked at that passed its gates; of those for one target the
highest release counts, then the last one published. On a channel what it points at counts, whatever the gates said:
somebody has decided that.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from packaging.version import Version

from enginery.builds import BUILD_ID_DIGITS, BuildTarget, Manifest
from enginery.core import versions
from enginery.core.errors import RegistryError, UsageError
from enginery.core.model import Frozen
from enginery.core.progress import Log
from enginery.core.text import human_bytes
from enginery.core.threads import side_by_side
from enginery.core.versions import is_version, same
from enginery.registry.channels import ChannelPointer, Pointed
from enginery.registry.layout import channel_reference, require_name
from enginery.registry.promoting import failures
from enginery.registry.reading import READERS, PublishedBuilds
from enginery.spec import CPU, FIRST_CAPABILITY, BackendName, Gpu, Precision, gpus

# Whether a build runs in a place, decided by its manifest alone, and in words why not.
#
# **TensorRT engines.** By default an engine runs only with the very TensorRT that built it, and not on another GPU
# architecture (NVIDIA's TensorRT documentation, "Engine Compatibility" and "Support Matrix"). `trtllm-build` has no
# flag
# for the modes that widen this, and each release of TensorRT-LLM has its TensorRT and its plugins. So both must be
# equal: the release, and the compute capability, without which TensorRT does not load the engine. Another *product* of
# the same compute capability, an H100 PCIe for an H100 SXM, does load it, with the warning that this "is likely to
# affect performance or even cause errors": its kernels were chosen by measuring on the one product, with its number of
# multiprocessors and its memory. Nobody shall get such an engine who did not ask for it: it is a near miss, and fits,
# with a warning, once `other_product` says so. Also then the very product goes first.
#
# **Checkpoints of `pytorch`.** Nothing in them is of a GPU: any NVIDIA GPU will do that computes in the precision and
# holds the weights. The release they were checked with is the least; a later one is told of.
#
# **`onnxruntime`.** What was built for `cpu` runs anywhere, also beside a GPU, which it leaves idle: it goes last,
# with a
# warning. What was built for CUDA runs on any NVIDIA GPU that computes in the precision and holds the weights. Neither
# is served by TensorRT-LLM.


GB = 10**9
THIS_PRODUCT, ANOTHER_PRODUCT, NOT_THE_GPU = range(3)


@dataclass(frozen=True)
class Host:
    """Where a build is to run; None for what is not known, which decides nothing.

    Attributes:
        gpu: the GPU, or `gpus.CPU` for none.
        gpus: how many of them there are.
        runtime: the TensorRT-LLM that the serving container has.
        other_product: accept a TensorRT engine of another product with the same compute capability.
    """

    gpu: Gpu | None = None
    gpus: int | None = None
    runtime: str | None = None
    other_product: bool = False


def misfits(manifest: Manifest, host: Host) -> tuple[str, ...]:
    """Every reason why a build does not run there; empty for one that does."""
    rule = _RULES.get(manifest.target.backend)
    if rule is None:
        return (f"backend {manifest.target.backend!r} is not known to this Enginery; upgrade it",)
    return tuple(rule(manifest, host))


def remarks(manifest: Manifest, host: Host) -> tuple[str, ...]:
    """What is to be said of a build that runs there, but not quite as it was made to."""
    return tuple(_remarks(manifest, host))


def distance(manifest: Manifest, host: Host) -> int:
    """How far a build that runs there is from one made for it: the less, the better."""
    if host.gpu is None or _is_for(manifest, host.gpu):
        return THIS_PRODUCT
    return NOT_THE_GPU if manifest.target.gpu == CPU.name else ANOTHER_PRODUCT


def _tensorrt(manifest: Manifest, host: Host) -> Iterator[str]:
    yield from _nvidia(manifest, host, _engine_on)
    if host.runtime is not None and not same(host.runtime, manifest.target.release):
        yield f"needs TensorRT-LLM {manifest.target.release}, this runtime has {host.runtime}"


def _pytorch(manifest: Manifest, host: Host) -> Iterator[str]:
    yield from _nvidia(manifest, host, _precision_on)
    least = manifest.target.release
    if host.runtime is not None and not _is_at_least(host.runtime, least):
        yield f"needs TensorRT-LLM {least} or later, this runtime has {host.runtime}"


def _onnxruntime(manifest: Manifest, host: Host) -> Iterator[str]:
    if manifest.target.gpu != CPU.name:
        yield from _nvidia(manifest, host, _precision_on)
    if host.runtime is not None:
        yield f"is served by ONNX Runtime, this runtime has TensorRT-LLM {host.runtime}"


_RULES: dict[str, Callable[[Manifest, Host], Iterator[str]]] = {
    BackendName.TENSORRT: _tensorrt,
    BackendName.PYTORCH: _pytorch,
    BackendName.ONNXRUNTIME: _onnxruntime,
}


def _nvidia(manifest: Manifest, host: Host, rule: Callable[[Manifest, Host, Gpu], Iterator[str]]) -> Iterator[str]:
    """What everything that was built for NVIDIA's GPUs needs, and the backend's own rule for the GPU."""
    if host.gpu == CPU:
        yield f"built for {manifest.target.gpu}, here is no NVIDIA GPU"
        return
    world_size = manifest.target.world_size
    if host.gpus is not None and world_size > host.gpus:
        there = "there is 1" if host.gpus == 1 else f"there are {host.gpus}"
        yield f"needs {world_size} GPUs, {there}"
    if host.gpu is not None:
        yield from rule(manifest, host, host.gpu)
        yield from _memory(manifest, host.gpu)


def _engine_on(manifest: Manifest, host: Host, gpu: Gpu) -> Iterator[str]:
    if _is_for(manifest, gpu):
        return
    product, built = manifest.target.gpu, _capability(manifest)
    if not built:
        yield f"built for {product}, of which the compute capability is not known; this GPU is {gpu.name}"
    elif built != gpu.compute_capability:
        yield f"built for compute capability {built} ({product}), this GPU is {gpu.compute_capability} ({gpu.name})"
    elif not host.other_product:
        yield (
            f"built for {product}, this GPU is {gpu.name}: of the same compute capability {built}, but NVIDIA does not"
            " support an engine on another product (--other-product accepts it)"
        )


def _precision_on(manifest: Manifest, _: Host, gpu: Gpu) -> Iterator[str]:
    name = manifest.target.precision
    if name not in set(Precision):
        yield f"precision {name!r} is not known to this Enginery; upgrade it"
    elif not gpu.supports(Precision(name)):
        first = ".".join(str(part) for part in FIRST_CAPABILITY[Precision(name)])
        yield f"{name} needs compute capability {first}, this GPU is {gpu.compute_capability} ({gpu.name})"


def _memory(manifest: Manifest, gpu: Gpu) -> Iterator[str]:
    needed = manifest.bytes_per_gpu
    if gpu.memory_gb and needed >= gpu.memory_gb * GB:
        yield f"takes {human_bytes(needed)} on each GPU, {gpu.name} has {gpu.memory_gb} GB"


def _remarks(manifest: Manifest, host: Host) -> Iterator[str]:
    target, gpu = manifest.target, host.gpu
    if distance(manifest, host) == NOT_THE_GPU and gpu is not None:
        yield f"it runs on the CPU, and leaves the {gpu.name} idle"
    if target.backend == BackendName.TENSORRT and gpu is not None and not _is_for(manifest, gpu):
        yield (
            f"its engine was built for {target.gpu} and not for {gpu.name}: NVIDIA does not support that, it may be"
            " slower or fail"
        )
    if target.backend == BackendName.PYTORCH and host.runtime and not same(host.runtime, target.release):
        yield f"it was checked with TensorRT-LLM {target.release}, and not with {host.runtime}"


def _is_for(manifest: Manifest, gpu: Gpu) -> bool:
    """Whether it was built for this very product."""
    return _product(manifest.target.gpu) == gpu.name


def _product(name: str) -> str:
    try:
        return gpus.find(name).name
    except UsageError:  # one that nvidia-smi named and our table has not
        return name


def _capability(manifest: Manifest) -> str:
    """As recorded; of a product that our table has learned since then, as it is there."""
    if manifest.engine.compute_capability:
        return manifest.engine.compute_capability
    try:
        return gpus.find(manifest.target.gpu).compute_capability
    except UsageError:
        return ""


def _is_at_least(runtime: str, least: str) -> bool:
    """Versions by PEP 440; what is no version is only itself."""
    if is_version(runtime) and is_version(least):
        return Version(Version(runtime).public) >= Version(Version(least).public)
    return runtime == least


# What is asked of a build, besides that it runs: checked before anything is looked for, then compared with builds.


AUTO = "auto"
ANY = "any"


class BuildQuery(Frozen):
    """A build to be found; None for what does not matter.

    Attributes:
        model: its model.
        channel: the channel it is on.
        build: its id, or how that begins.
        target: the name of its target.
        gpu: the GPU to run on: a product name in any spelling, `cpu`, `auto` for what this machine has, or `any`.
        gpus: how many GPUs there are; with `auto`, as many as this machine has of the first kind.
        world_size: the GPUs that it takes, exactly.
        backend: what runs it.
        release: its backend's version, or a range such as `>=1.0,<1.3`.
        runtime: the TensorRT-LLM of the container that is to serve it.
        precision: the number format of its weights.
        other_product: accept a TensorRT engine that was built for another product of the same compute capability.
    """

    model: str
    channel: str | None = None
    build: str | None = None
    target: str | None = None
    gpu: str = AUTO
    gpus: int | None = None
    world_size: int | None = None
    backend: str | None = None
    release: str | None = None
    runtime: str | None = None
    precision: str | None = None
    other_product: bool = False

    def checked(self) -> "BuildQuery":
        """Itself, when it can be looked for.

        Raises:
            UsageError: with everything that cannot be meant.
        """
        if mistakes := list(self._mistakes()):
            raise UsageError("; ".join(mistakes), subject="resolve", remedy="correct it; nothing was looked for")
        return self

    def host(self) -> Host:
        """Where the build is to run; asks `nvidia-smi` for `auto`.

        Raises:
            UsageError: when the GPU is not known, or `nvidia-smi` does not work.
        """
        gpu, count = self._gpu()
        return Host(gpu=gpu, gpus=count, runtime=self.runtime, other_product=self.other_product)

    def differences(self, manifest: Manifest) -> Iterator[str]:
        """Every reason why a build is not the one asked for."""
        target = manifest.target
        for said, wanted, found in (
            ("is of target", self.target, target.name),
            ("is for backend", self.backend, target.backend),
            ("is in", self.precision, target.precision),
        ):
            if wanted is not None and wanted != found:
                yield f"{said} {found}, asked for is {wanted}"
        if self.release is not None and not _fits(self.release, target.release):
            yield f"is of release {target.release}, asked for is {self.release}"
        if self.world_size is not None and self.world_size != target.world_size:
            yield f"takes {target.world_size} GPUs, asked for are {self.world_size}"

    @property
    def described(self) -> str:
        """It in words, for messages."""
        said = self.model_dump(exclude_none=True, exclude={"model", "gpu", "other_product"})
        told = [self.model, *(f"{name} {value}" for name, value in said.items()), f"gpu {self.gpu}"]
        return ", ".join(told)

    def _gpu(self) -> tuple[Gpu | None, int | None]:
        if self.gpu == ANY:
            return None, self.gpus
        if self.gpu != AUTO:
            return gpus.find(self.gpu), self.gpus
        found = gpus.detect_all()
        if not found:
            return CPU, self.gpus
        return found[0], self.gpus or found.count(found[0])

    def _mistakes(self) -> Iterator[str]:
        if self.channel is not None and self.build is not None:
            yield "a channel and a build are named: name one of them"
        for field in ("model", "channel", "target"):
            value = getattr(self, field)
            if value is not None:
                yield from _wrong_name(field, value)
        for field, known in (("backend", set(BackendName) - {BackendName.AUTO}), ("precision", set(Precision))):
            value = getattr(self, field)
            if value is not None and value not in known:
                yield f"{field} {value!r} is not one of {', '.join(sorted(known))}"
        for field in ("gpus", "world_size"):
            value = getattr(self, field)
            if value is not None and value < 1:
                yield f"{field} is {value}, it must be at least 1"
        if self.release is not None and (wrong := versions.mistake(self.release)):
            yield f"release {wrong}"
        if self.runtime is not None and not versions.is_version(self.runtime):
            yield f"runtime {self.runtime!r} is not a version of TensorRT-LLM, such as 1.1.0"


def _wrong_name(field: str, value: str) -> Iterator[str]:
    try:
        require_name(field, value)
    except UsageError as error:
        yield str(error)


def _fits(wanted: str, release: str) -> bool:
    return versions.is_version(release) and versions.fits(wanted, release)


# Why no build was found, or no single one: the near misses with their reasons, the options that tell builds apart.


SHOWN = 10


class Miss(NamedTuple):
    """A build that does not fit, and every reason in words."""

    reference: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.reference}: {'; '.join(self.reasons)}"


def nearest(misses: Sequence[Miss]) -> list[Miss]:
    """The near ones: those with the fewest reasons first, and not too many of them."""
    return sorted(misses, key=lambda miss: len(miss.reasons))[:SHOWN]


class NothingFits(RegistryError):  # noqa: N818  it says what happened
    """No build is what was asked for and runs where it should.

    Attributes:
        misses: every build that was looked at, with the reasons why not.
    """

    def __init__(self, asked: BuildQuery, host: Host, misses: Sequence[Miss]) -> None:
        self.misses = tuple(misses)
        if not misses:
            if asked.channel:
                where = f"channel {asked.channel} of {asked.model}" + (f" for {asked.target}" if asked.target else "")
                remedy = f"see where its channels point with `enginery channels {asked.model}`"
            else:
                where, remedy = asked.model, "see what is published with `enginery list`"
            super().__init__("nothing is published there", subject=where, remedy=remedy)
            return
        which = f" ({host.gpu.name})" if asked.gpu == AUTO and host.gpu else ""
        shown = nearest(misses)
        lines = "".join(f"\n  {miss}" for miss in shown)
        more = f"\n  and {len(misses) - len(shown)} more" if len(misses) > len(shown) else ""
        remedy = "ask for something else, or build one for this: add a target to the spec"
        super().__init__(
            f"no build fits; the nearest:{lines}{more}", subject=f"{asked.described}{which}", remedy=remedy
        )


class SeveralFit(RegistryError):  # noqa: N818
    """More builds than one fit, and none of them better than the others.

    Attributes:
        references: the builds.
        options: what tells them apart: option -> the values that they have.
    """

    def __init__(self, asked: BuildQuery, manifests: Sequence[Manifest]) -> None:
        self.references = tuple(manifest.reference for manifest in manifests)
        self.options = _telling(manifests)
        lines = "".join(f"\n  {_line(manifest)}" for manifest in manifests[:SHOWN])
        more = f"\n  and {len(manifests) - SHOWN} more" if len(manifests) > SHOWN else ""
        told = " or ".join(f"{option} ({', '.join(values)})" for option, values in self.options.items())
        problem = f"{len(manifests)} builds fit equally well:{lines}{more}"
        super().__init__(problem, subject=asked.described, remedy=f"tell them apart with {told}")


_OPTIONS: dict[str, Callable[[Manifest], str]] = {
    "--target": lambda manifest: manifest.target.name,
    "--backend": lambda manifest: manifest.target.backend,
    "--precision": lambda manifest: manifest.target.precision,
    "--world-size": lambda manifest: str(manifest.target.world_size),
    "--release": lambda manifest: manifest.target.release,
    "--gpu": lambda manifest: manifest.target.gpu,
    "--build": lambda manifest: manifest.build_id,
}
"""In the order in which people would choose; a build's id always tells."""


def _telling(manifests: Sequence[Manifest]) -> dict[str, list[str]]:
    found = {option: sorted({of(manifest) for manifest in manifests}) for option, of in _OPTIONS.items()}
    telling = {option: values for option, values in found.items() if len(values) > 1}
    return (
        telling if len(telling) == 1 else {option: values for option, values in telling.items() if option != "--build"}
    )


def _line(manifest: Manifest) -> str:
    target = manifest.target
    gpus = "1 GPU" if target.world_size == 1 else f"{target.world_size} GPUs"
    kind = f"target {target.name}, {target.backend} {target.release}, {target.precision}, {target.gpu}, {gpus}"
    return f"{manifest.reference}: {kind}"


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


def resolve(registry: PublishedBuilds, asked: BuildQuery) -> Resolved:
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


def _candidates(registry: PublishedBuilds, asked: BuildQuery) -> tuple[list[Candidate], list[Miss]]:
    if asked.build is not None:
        return [Candidate(registry.find(f"{asked.model}/{asked.build}"))], []
    if asked.channel is not None:
        return _on_channel(registry, asked, asked.channel)
    found, unsound = registry.manifests(asked.model)
    return [Candidate(manifest) for manifest in found], [_unreadable(error) for error in unsound]


def _on_channel(registry: PublishedBuilds, asked: BuildQuery, channel: str) -> tuple[list[Candidate], list[Miss]]:
    """What the channel points at, each pointer read once."""
    if asked.target is not None:
        named = registry.pointed(asked.model, channel, asked.target)
        found, unsound = ([named] if named else []), list[RegistryError]()
    else:
        found, unsound = _listed(registry, asked.model, channel)
    looked = side_by_side(lambda one: _look(registry, one), found, threads=READERS)
    candidates = [one for one in looked if isinstance(one, Candidate)]
    return candidates, [*(one for one in looked if isinstance(one, Miss)), *map(_unreadable, unsound)]


def _listed(registry: PublishedBuilds, model: str, channel: str) -> tuple[list[Pointed], list[RegistryError]]:
    try:
        return registry.pointers(model, channel)
    except RegistryError as error:
        if not error.transient:
            error.add_note("where the bucket may not be listed, name the target too (--target): nothing is listed then")
        raise


def _look(registry: PublishedBuilds, pointed: Pointed) -> Candidate | Miss:
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
    candidates: Iterable[Candidate], asked: BuildQuery, host: Host, broken: Sequence[Miss] = ()
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


def _reasons(candidate: Candidate, asked: BuildQuery, host: Host) -> Iterable[str]:
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


# Which build a command means: the one it names, or the one that fits what it says of a place.


_BUILD_ID = re.compile(rf".+-[0-9a-f]{{{BUILD_ID_DIGITS}}}")


def find_build(registry: PublishedBuilds, reference: str) -> tuple[Manifest, str | None]:
    """The build meant by a reference as `PublishedBuilds.find` takes it, and the channel in it, if one is.

    `MODEL/BUILD` in full and `MODEL@CHANNEL/TARGET` are found without listing the bucket, which a consumer may not be
    allowed to.

    Raises:
        RegistryError: when there is none, or more than one; near ones are named.
    """
    if "@" in reference:
        return registry.find(reference), reference.partition("@")[2].partition("/")[0]
    model, slash, build_id = reference.rpartition("/")
    exact = registry.read(model, build_id) if slash and model and build_id else None
    return exact or registry.find(reference), None


def choose_build(registry: PublishedBuilds, asked: BuildQuery, log: Log) -> tuple[Manifest, str | None]:
    """The build that is asked for, and the channel it was found by, if it was.

    Args:
        registry: where.
        asked: in `model` either a model's name, of which the build that fits the rest is taken, or a reference to a
            build, which is taken whatever it fits.
        log: told what to know of running it.

    Raises:
        UsageError: when a reference to a build comes with what it must fit.
        RegistryError: when there is no such build, or not just one.
    """
    if "/" in asked.model or "@" in asked.model or _BUILD_ID.fullmatch(asked.model):
        if given := asked.model_dump(exclude={"model", "gpu"}, exclude_defaults=True):
            remedy = f"leave out {', '.join(given)}, or give the model's name alone"
            raise UsageError("names a build already", subject=asked.model, remedy=remedy)
        return find_build(registry, asked.model)

    resolved = resolve(registry, asked)
    for warning in resolved.warnings:
        log(f"warning: {warning}")
    return resolved.manifest, asked.channel

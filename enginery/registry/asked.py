"""What is asked of a build, besides that it runs: checked before anything is looked for, then compared with builds."""

from collections.abc import Iterator

from enginery import gpus, versions
from enginery.errors import UsageError
from enginery.gpus import CPU, Gpu
from enginery.manifest import Manifest
from enginery.registry.fitting import Host
from enginery.registry.layout import require_name
from enginery.spec import BackendName, Precision
from enginery.steps import Frozen

AUTO = "auto"
ANY = "any"


class Asked(Frozen):
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

    def checked(self) -> "Asked":
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

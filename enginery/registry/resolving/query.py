"""The query with which `Registry.resolve` and the commands `resolve` and `pull` look for a build."""

import re
from collections.abc import Iterator
from typing import TypedDict

from enginery.builds import Manifest
from enginery.core import versions
from enginery.core.errors import UsageError
from enginery.core.model import Frozen
from enginery.registry.resolving.compatibility import Host
from enginery.spec import CPU, IN_WORDS, NAME_PATTERN, BackendName, Precision, gpus

AUTO = "auto"
ANY = "any"


class BuildOptions(TypedDict, total=False):
    """The options of a query as keyword arguments; `BuildQuery` describes them."""

    channel: str | None
    build: str | None
    target: str | None
    gpu: str
    gpus: int | None
    world_size: int | None
    backend: str | None
    release: str | None
    runtime: str | None
    precision: str | None
    other_product: bool


class BuildQuery(Frozen):
    """Describes the build to find. An option that is None excludes no build.

    Attributes:
        model: the model's name.
        channel: a channel that points at the build; without one, every build that passed its gates is considered.
        build: the build's id, or the beginning of it; cannot be given together with a channel.
        target: the name of the build's target.
        gpu: the GPU to run on: a product name in any spelling, `cpu`, `auto` for what this machine has, or `any`.
        gpus: the number of GPUs of the machine; with `gpu="auto"` it is found, and only GPUs like the first one count.
        world_size: the exact number of GPUs that the build takes.
        backend: `tensorrt`, `pytorch` or `onnxruntime`.
        release: the backend's version, or a range such as `>=1.0,<1.3`.
        runtime: the version of TensorRT-LLM in the container that will serve the build.
        precision: the number format of the weights.
        other_product: accept a TensorRT engine built for another product with the same compute capability.
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
        """Check the query and return it.

        Raises:
            UsageError: when an option is not valid; names every mistake.
        """
        if mistakes := list(self._mistakes()):
            raise UsageError("; ".join(mistakes), subject="resolve", remedy="correct it; no build was looked for")
        return self

    def host(self) -> Host:
        """The machine that the build must run on; for `auto`, `nvidia-smi` finds the GPU.

        Raises:
            UsageError: when the GPU is not known, or `nvidia-smi` does not work.
        """
        gpu, count = None, self.gpus
        if self.gpu == AUTO:
            found = gpus.detect_all()
            gpu = found[0] if found else CPU
            count = count or found.count(gpu) or None
        elif self.gpu != ANY:
            gpu = gpus.find(self.gpu)
        return Host(gpu=gpu, gpus=count, runtime=self.runtime, other_product=self.other_product)

    def differences(self, manifest: Manifest) -> Iterator[str]:
        """Every reason why a build does not match the query; whether it runs on the machine is not looked at."""
        target = manifest.target
        for prefix, wanted, found in (
            ("is of target", self.target, target.name),
            ("is for backend", self.backend, target.backend),
            ("is in", self.precision, target.precision),
        ):
            if wanted is not None and wanted != found:
                yield f"{prefix} {found}, and the query wants {wanted}"
        known = versions.is_version(target.release)
        if self.release is not None and not (known and versions.fits(self.release, target.release)):
            yield f"is of release {target.release}, and the query wants {self.release}"
        if self.world_size is not None and self.world_size != target.world_size:
            yield f"needs {target.world_size} GPUs, and the query wants {self.world_size}"

    @property
    def described(self) -> str:
        """The query in words, for messages."""
        options = self.model_dump(exclude_none=True, exclude={"model", "gpu", "other_product"})
        return ", ".join([self.model, *(f"{name} {value}" for name, value in options.items()), f"gpu {self.gpu}"])

    def _mistakes(self) -> Iterator[str]:
        if self.channel is not None and self.build is not None:
            yield "a channel and a build are named: name one of them"
        for field in ("model", "channel", "target"):
            value = getattr(self, field)
            if value is not None and not re.fullmatch(NAME_PATTERN, value):
                yield f"{field}: {value!r} {IN_WORDS[NAME_PATTERN]}"
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

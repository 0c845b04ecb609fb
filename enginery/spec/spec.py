"""What a user writes: one model, the targets to build it for, and what to do with the builds.

A spec says what is wanted; the plan turns it into steps. `parse_spec` reports every mistake at once, each with the path
of its field. Each field is described by the text under it, also in docs/spec.md.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import (
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from enginery.core.errors import SpecError, UsageError
from enginery.spec import gpus
from enginery.spec.build import BuildOptions
from enginery.spec.findings import sentences
from enginery.spec.hub_names import read_repository
from enginery.spec.serving import ServingOptions
from enginery.spec.types import (
    AtLeastOne,
    BackendName,
    HttpAddress,
    HubRepository,
    ImageName,
    Name,
    Place,
    Precision,
    S3Address,
    S3Source,
    Sha256,
    SpecModel,
    WarningCode,
)
from enginery.spec.validation import ValidationOptions

Options = TypeVar("Options", bound=SpecModel)

WITH_GPUS = "with GPUs"
"""Pydantic's validation context for a user's spec. In this context, the names of GPUs are checked."""


class Source(SpecModel):
    """Where the weights come from: exactly one of `huggingface`, `path` and `s3`."""

    huggingface: HubRepository | None = None
    """A repository on the Hugging Face Hub: `owner/name`, or its address. A gated one needs a token in `HF_TOKEN`."""
    path: str | None = None
    """A directory on this machine, relative to the spec file or absolute."""
    s3: S3Source | None = None
    """A prefix in S3 that holds the model's files."""
    revision: str = "main"
    """Branch, tag or commit of a Hub repository. It is resolved to a commit before any step key is made."""
    allow_pickle: tuple[str, ...] = ()
    """Names of pickled weight files (`*.bin`, `*.pt`, `*.pth`) to accept. A pickle can run any code when it is read,
    so only the files named here are accepted."""
    sha256: dict[str, Sha256] = Field(default_factory=dict)
    """Expected digests by file name; a file that differs stops the build."""

    @model_validator(mode="before")
    @classmethod
    def _take_revision_from_address(cls, data: Any) -> Any:
        """Set `revision` if the address of the repository names one, such as `…/owner/name/tree/v1`."""
        if not isinstance(data, Mapping) or not isinstance(data.get("huggingface"), str):
            return data
        try:
            named = read_repository(data["huggingface"]).revision
        except ValueError:
            return data  # the field's own validator reports it
        given = data.get("revision", named)
        if named is not None and given != named:
            raise ValueError(
                f"huggingface names revision {named!r}, but revision is {given!r}; write huggingface as owner/name"
            )
        return {**data, "revision": named} if named is not None else data

    @field_validator("huggingface", mode="before")
    @classmethod
    def _only_the_name(cls, written: Any) -> Any:
        return read_repository(written).name if isinstance(written, str) else written

    @field_validator("revision", mode="before")
    @classmethod
    def _without_spaces(cls, written: Any) -> Any:
        if isinstance(written, str) and not written.strip():
            raise ValueError("is empty; give a branch, tag or commit, or remove the field")
        return written.strip() if isinstance(written, str) else written

    @model_validator(mode="after")
    def _exactly_one_origin(self) -> Self:
        given = [name for name in ("huggingface", "path", "s3") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise ValueError(f"give exactly one of huggingface, path, s3 (found {found})")
        return self


class Calibration(SpecModel):
    """The texts for the calibration of a quantized model."""

    dataset: str | None = None
    """A file of texts (`.jsonl` with `text`, or `.txt`), relative to the spec or absolute, or a name that the converter
    knows; the converter's own data set when left out."""
    size: AtLeastOne | None = None
    """How many texts; the converter's own number (mostly 512) when left out."""
    max_length: AtLeastOne | None = None
    """Longest text in tokens."""
    batch_size: AtLeastOne | None = None
    """How many texts at once."""
    seed: int | None = None
    """The random seed that decides which texts are used."""


class ConvertOptions(SpecModel):
    """How weights become a checkpoint. TensorRT-LLM only."""

    converter: Literal["auto", "release", "modelopt"] = "auto"
    """What converts: the scripts of the `release` itself, or NVIDIA ModelOpt in a toolchain of its own (`modelopt`).
    `auto` is `release` for backend `tensorrt`, and `modelopt` for `pytorch`."""
    kv_cache: Literal["auto", "fp8", "int8", "nvfp4"] = "auto"
    """The number format of the KV cache. `auto` is fp8 with fp8 and nvfp4 weights, else that of the activations."""
    device: Literal["cpu", "cuda"] | None = None
    """Where to quantize; when left out, `cuda` if the quantization needs calibration."""
    calibration: Calibration = Calibration()
    """What to calibrate with, if the precision needs calibration."""
    examples: str | None = None
    """The `examples` directory of a checkout of the release, for `venv` and `host` toolchains; the environment variable
    `ENGINERY_TRTLLM_EXAMPLES` when left out. Containers contain this directory."""
    extra_args: tuple[str, ...] = ()
    """More arguments for the converter. They are passed on unchanged, but checked against the release's flags."""


class Target(SpecModel):
    """One engine to build: the GPU it is for, and how."""

    name: Name
    """The target's name in plans, builds and channels."""
    gpu: str = "auto"
    """A GPU's product name such as `H100-SXM5-80GB`, `cpu`, or `auto` for the one in this machine."""
    backend: BackendName = BackendName.AUTO
    """What runs the engine."""
    release: str = "latest"
    """The backend's release: a version, a range such as `>=1.0,<1.3`, or `latest`."""
    toolchain: Literal["venv", "host", "container"] = "venv"
    """Where the release's commands run: `venv`, an environment made from Enginery's pins; `host`, the release that is
    on PATH (for a worker inside NVIDIA's container); or `container`, the release's image, started with Docker."""
    image: ImageName | None = None
    """With `toolchain: container`, your own image with the release inside, such as `team/trtllm:1.2.1`; Triton's newest
    image with the release when left out. `ENGINERY_CONTAINER_REGISTRY` is the registry's host if the name has none."""
    precision: Precision
    """The number format of the weights."""
    tensor_parallel: AtLeastOne = 1
    """The number of GPUs that each layer is split over."""
    pipeline_parallel: AtLeastOne = 1
    """The number of parts that the sequence of layers is split into, each on GPUs of its own."""
    convert: ConvertOptions | None = None
    """Overrides the spec's `convert`, field by field."""
    build: BuildOptions | None = None
    """Overrides the spec's `build`, field by field."""
    llm: dict[str, JsonValue] | None = None
    """Overrides the spec's `llm`, key by key."""
    validation: ValidationOptions | None = None
    """Overrides the spec's `validation`, field by field."""
    serving: ServingOptions | None = None
    """Overrides the spec's `serving`, field by field."""

    @field_validator("gpu")
    @classmethod
    def _gpu_is_known(cls, gpu: str, info: ValidationInfo) -> str:
        """Check the GPU's name if a user's spec is read. In any case the plan looks up every GPU again."""
        if info.context is not WITH_GPUS or gpu == "auto":
            return gpu
        try:
            gpus.find(gpu)
        except UsageError as error:
            raise ValueError(f"{error.problem}; {error.remedy}") from error
        return gpu


class Publish(SpecModel):
    """Where finished builds go. The endpoint and the credentials come from the usual AWS settings."""

    to: S3Address
    """The registry's prefix in S3."""
    channel: Name = "candidate"
    """The channel that is moved to a build once it is published."""
    allow_unconditional_writes: bool = False
    """Accept an S3 endpoint that ignores `If-None-Match`, where two publishers could overwrite each other."""


class Rollout(SpecModel):
    """Which Triton servers to load the build into."""

    endpoints: Annotated[tuple[HttpAddress, ...], Field(min_length=1)]
    """HTTP addresses of Triton servers in explicit model-control mode, such as `http://triton-h100:8000`."""
    model_repository: Place | None = None
    """The model repository that those servers read: a directory or an S3 prefix. When left out, it is
    `<publish.to>/serving/<spec name>`, and with backend `tensorrt` the directory `serving.mount`: TensorRT-LLM's
    backend needs the engine's path, but Triton copies models from S3 to a new path each time."""
    target: Name | None = None
    """The target to roll out; needed when there is more than one."""


class Releases(SpecModel):
    """What to do when the package index lists a new release. Nothing here is part of a step's key."""

    watch: bool = False
    """Look for new releases whenever `watch-releases` runs."""
    prereleases: bool = False
    """Count previews such as `1.3.0rc4` as releases."""
    within: str = ""
    """A range that releases must be in, such as `<2`; any release when left out."""
    targets: tuple[Name, ...] = ()
    """The targets to build anew; all of them when left out."""
    rebuild: bool = True
    """Start builds of a new release. If false, only the verdict on the release is reported."""
    build_channel: Name = "rebuild"
    """The channel that builds of a new release are published to. Nothing should serve from it."""
    promote_to: Name | None = "candidate"
    """The channel to move to a build of a new release, if it is not worse than the channel's build by the gates of
    `validation.gates`; `null` for none."""

    @model_validator(mode="before")
    @classmethod
    def _gates_have_moved(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "gates" in data:
            raise ValueError(
                "gates has moved: write slower_percent and larger_percent under validation.gates.channel, and remove"
                " releases.gates"
            )
        return data

    @field_validator("within")
    @classmethod
    def _is_a_range(cls, within: str) -> str:
        try:
            SpecifierSet(within)
        except InvalidSpecifier as error:
            raise ValueError(f"{within!r} is not a range of versions, such as '>=1.0,<2'") from error
        return within

    @model_validator(mode="after")
    def _channels_differ(self) -> Self:
        if self.promote_to == self.build_channel:
            raise ValueError("build_channel and promote_to must differ: a build is compared before it is promoted")
        return self


class Spec(SpecModel):
    """One model, the targets to build it for, and what to do with the builds."""

    name: Name
    """The model's name in the registry."""
    source: Source
    """Where the weights come from."""
    targets: Annotated[tuple[Target, ...], Field(min_length=1)]
    """What to build."""
    validation: ValidationOptions = ValidationOptions()
    """What a built engine must answer."""
    publish: Publish | None = None
    """Where finished builds go; they stay in the store when left out."""
    rollout: Rollout | None = None
    """Which servers to load a build into; none when left out."""
    convert: ConvertOptions = ConvertOptions()
    """How to convert and quantize the weights, for every target."""
    build: BuildOptions = BuildOptions()
    """How to build, for every target."""
    llm: dict[str, JsonValue] = Field(default_factory=dict)
    """Arguments of TensorRT-LLM's LLM API by their own names, such as `max_num_tokens: 8192`. Backend `pytorch` only;
    a key that the release does not have is refused."""
    serving: ServingOptions = ServingOptions()
    """How Triton serves the engines."""
    releases: Releases = Releases()
    """What to do when a new release of a backend comes out."""
    force: tuple[WarningCode, ...] = ()
    """Warnings of the plan to accept, by their codes, such as `W201`. Errors cannot be accepted."""

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        names = [target.name for target in self.targets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"targets must have different names; twice: {', '.join(twice)}")
        if self.rollout:
            self._check_rollout(self.rollout.target, names)
        if unknown := [name for name in self.releases.targets if name not in names]:
            raise ValueError(f"releases.targets: {', '.join(unknown)} not among the targets {', '.join(names)}")
        if self.releases.watch and self.releases.rebuild:
            self._check_rebuild()
        return self

    def _check_rollout(self, wanted: str | None, names: list[str]) -> None:
        if self.publish is None:
            raise ValueError("rollout needs publish: servers load what was published")
        if wanted is None and len(names) > 1:
            raise ValueError(f"rollout.target is needed with several targets: one of {', '.join(names)}")
        if wanted is not None and wanted not in names:
            raise ValueError(f"rollout.target {wanted!r} is not one of {', '.join(names)}")

    def _check_rebuild(self) -> None:
        if self.publish is None:
            raise ValueError("releases needs publish, to compare published builds; or set releases.rebuild: false")
        if self.publish.channel == self.releases.build_channel:
            raise ValueError(f"releases.build_channel must differ from publish.channel, {self.publish.channel}")

    def convert_for(self, target: Target) -> ConvertOptions:
        """The target's options for the conversion. A field that the target does not set is the spec's."""
        return _merged(self.convert, target.convert)

    def llm_for(self, target: Target) -> dict[str, JsonValue]:
        """The target's arguments of the LLM API. A key that the target does not set is the spec's."""
        return {**self.llm, **(target.llm or {})}

    def build_for(self, target: Target) -> BuildOptions:
        """The target's build options. A field that the target does not set is the spec's."""
        return _merged(self.build, target.build)

    def validation_for(self, target: Target) -> ValidationOptions:
        """The target's options for the validation. A field that the target does not set is the spec's."""
        return _merged(self.validation, target.validation)

    def serving_for(self, target: Target) -> ServingOptions:
        """The target's serving options. A field that the target does not set is the spec's."""
        return _merged(self.serving, target.serving)

    def rollout_target(self) -> Target | None:
        """The target that is rolled out, if any."""
        if self.rollout is None:
            return None
        wanted = self.rollout.target or self.targets[0].name
        return next(target for target in self.targets if target.name == wanted)


def parse_spec(data: object, *, subject: str = "spec") -> Spec:
    """Make a spec of plain data, and check it.

    Raises:
        SpecError: with every mistake that was found. Each begins with the path of its field.
    """
    try:
        return Spec.model_validate(data, context=WITH_GPUS)
    except ValidationError as error:
        raise SpecError(sentences(error, Spec), subject=subject) from error


def _merged(base: Options, override: Options | None) -> Options:
    if override is None:
        return base
    return base.model_copy(update={field: getattr(override, field) for field in override.model_fields_set})

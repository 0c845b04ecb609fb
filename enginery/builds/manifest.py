"""The manifest of a published build: its files, its target, its validation, and every step that made it.

The manifest is written last, so a build with a manifest is complete. Every byte of the build can be checked with it.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, JsonValue, ValidationError

from enginery.builds.gates import GateReport
from enginery.builds.speed import SpeedReport
from enginery.builds.validation import ValidationReport
from enginery.core.digests import json_digest
from enginery.core.errors import RegistryError, UsageError
from enginery.core.model import Frozen
from enginery.spec import SHA256_PATTERN, Name, gpus
from enginery.store import FileRecord, Stage, StepRecord
from enginery.toolchains import TENSORRT_PACKAGES

MANIFEST_SCHEMA = 3
"""Schema 2 added the facts of the engine and the licence. For schema 1 most of them are found from the steps. Schema 3
added the gates and the speed; older builds have neither."""
FACTS_SCHEMA = 2
"""The first schema that has the facts of the engine and the licence."""
MANIFEST = "manifest.json"
"""The manifest's path in a build."""
MODELS = "models"
"""The directory of all models in a registry."""
MODEL_REPOSITORY = "model_repository"
LICENSES = "license"
"""The directory of the licence texts in a build."""
LAUNCH = "launch"
"""The fact of a package step that says how to start a server."""
BUILD_ID_DIGITS = 12
RANK_FILE = re.compile(r"/rank\d+\.engine$")
PUBLISH_AGAIN = "do not use this build; publish it again"
LIMITS = ("max_batch_size", "max_input_len", "max_output_len", "max_seq_len", "max_num_tokens", "max_beam_width")
"""The names of an engine's limits in TensorRT-LLM. They count requests or tokens."""
LIMIT_PLACES = ("limits", "arguments", "serving")
"""The entries of a step's facts and parameters that hold limits of the engine or of its server."""
HEAD = 600
"""The title of a licence is looked for in this number of characters at its beginning."""
TITLES = (
    ("Apache-2.0", r"apache license,?\s+version 2\.0"),
    ("MIT", r"\bmit license\b|permission is hereby granted, free of charge"),
    ("BSD-3-Clause", r"\bbsd 3-clause license\b"),
    ("llama2", r"llama 2 community license"),
    ("llama3", r"llama 3 community license"),
    ("llama3.1", r"llama 3\.1 community license"),
    ("llama3.2", r"llama 3\.2 community license"),
    ("llama3.3", r"llama 3\.3 community license"),
    ("gemma", r"gemma terms of use"),
    ("qwen", r"tongyi qianwen license|qwen license agreement"),
)
"""The identifier of each licence (from SPDX, else from the Hugging Face Hub), and a pattern for the text's title."""


class EngineFacts(Frozen):
    """Facts of an engine besides its target. An attribute that is not known is empty.

    Attributes:
        compute_capability: the compute capability of its GPU, such as `9.0`; empty for `cpu`.
        tensorrt: the version of TensorRT that built the engine; empty for backends without TensorRT.
        limits: the largest values that it accepts, such as `max_batch_size` (requests) and `max_seq_len` (tokens).
    """

    compute_capability: str = ""
    tensorrt: str = ""
    limits: Mapping[str, int] = Field(default_factory=dict)


class License(Frozen):
    """The licence of a model.

    Attributes:
        id: the identifier, such as `Apache-2.0` or `llama3`; empty when not known.
        files: the paths of its texts, relative to the build's prefix.
    """

    id: str = ""
    files: tuple[str, ...] = ()


def _safe_path(path: str) -> str:
    parts = path.split("/")
    if {"", ".", ".."} & set(parts) or "\\" in path or not path.isprintable():
        raise ValueError(f"{path!r} is not a path inside the build")
    return path


def _safe_name(name: str) -> str:
    if "/" in _safe_path(name):
        raise ValueError(f"{name!r} is not a name")
    return name


SafeName = Annotated[str, AfterValidator(_safe_name)]


def _valid_file(file: FileRecord) -> FileRecord:
    """Check a file of a manifest, because a pull will write to its path. Files of step records are not checked."""
    _safe_path(file.path)
    if not re.fullmatch(SHA256_PATTERN, file.sha256):
        raise ValueError(f"sha256 of {file.path!r} is not 64 hex digits, in lower case: {file.sha256!r}")
    if file.size < 0:
        raise ValueError(f"size of {file.path!r} is negative: {file.size}")
    return file


ValidFile = Annotated[FileRecord, AfterValidator(_valid_file)]


def _distinct(files: tuple[FileRecord, ...]) -> tuple[FileRecord, ...]:
    """Refuse files that cannot be in one directory, also on file systems that ignore case or the Unicode form."""
    seen: dict[str, str] = {}
    for path in [MANIFEST, *(file.path for file in files)]:
        normalized = unicodedata.normalize("NFC", path).casefold()
        if other := seen.get(normalized):
            both = f"{other!r} and {path!r}"
            raise ValueError(f"two files have the same path, or differ only in upper and lower case: {both}")
        seen[normalized] = path
    for normalized, path in seen.items():
        parent = normalized
        while parent := parent.rpartition("/")[0]:
            if other := seen.get(parent):
                raise ValueError(f"{other!r} is a file, and the directory of {path!r}")
    return files


class BuildTarget(Frozen):
    """The target that a build was made for.

    Attributes:
        name: the target's name in its spec.
        gpu: the product name of the GPU, or `cpu`.
        backend: the backend that runs the engine.
        release: the backend's version.
        precision: the number format of the weights.
        tensor_parallel: the number of GPUs that share each layer.
        pipeline_parallel: the number of groups of GPUs; each group holds some of the layers.
    """

    name: Name
    gpu: str
    backend: str
    release: str
    precision: str
    tensor_parallel: int = 1
    pipeline_parallel: int = 1

    @property
    def world_size(self) -> int:
        """The number of GPUs that one engine needs."""
        return self.tensor_parallel * self.pipeline_parallel


class Manifest(Frozen):
    """One published build.

    Attributes:
        model: the model's name in the registry.
        build_id: the build's id, unique within the model.
        created: when it was published, UTC.
        enginery: the version of Enginery that published it.
        registry: the address it was first published to.
        channel: the channel that the spec named when the build was published.
        files: every file of the build except this manifest, with paths relative to the build's prefix.
        steps: the records of all steps that made it; each step comes after its inputs.
        validation: the prompts with the answers of the engine.
        gates: the verdicts of the gates, and what was measured; None if the build is older than the gates.
        speed: how fast the engine is; None if it was not measured.
        engine: the facts of the engine; with the target they decide where the engine runs.
        license: the model's licence.
    """

    schema_version: int = MANIFEST_SCHEMA
    model: Name
    build_id: SafeName
    target: BuildTarget
    created: datetime
    enginery: str
    registry: str
    channel: Name
    files: Annotated[tuple[ValidFile, ...], AfterValidator(_distinct)]
    steps: tuple[StepRecord, ...]
    validation: ValidationReport
    gates: GateReport | None = None
    speed: SpeedReport | None = None
    engine: EngineFacts = EngineFacts()
    license: License = License()

    @property
    def reference(self) -> str:
        """The build's name as on the command line, `MODEL/BUILD`."""
        return f"{self.model}/{self.build_id}"

    @property
    def size(self) -> int:
        """The bytes of all files together."""
        return sum(file.size for file in self.files)

    @property
    def model_files(self) -> tuple[FileRecord, ...]:
        """The files of the model repository."""
        return tuple(file for file in self.files if file.path.startswith(f"{MODEL_REPOSITORY}/"))

    @property
    def bytes_per_gpu(self) -> int:
        """The bytes that each GPU must have memory for: the largest rank's engine, else a share of the model files."""
        files = self.model_files
        ranks = [file.size for file in files if RANK_FILE.search(file.path)]
        return max(ranks) if ranks else sum(file.size for file in files) // self.target.world_size

    @property
    def launch(self) -> Mapping[str, JsonValue]:
        """How to start a server for the build, as its package step recorded it; empty when any Triton server can.

        `world_size` is the number of GPUs. `command` is the command to run in the container `image`. `mount` is the
        path of the model repository in that container. `shared_memory` is the size that Triton's Python models need.
        """
        packaged = self.step(Stage.PACKAGE)
        found = packaged.facts.get(LAUNCH) if packaged else None
        return found if isinstance(found, Mapping) else {}

    @property
    def described(self) -> dict[str, JsonValue]:
        """The facts to show to people, by name: the target, the engine, and how to start a server."""
        launch = {f"{LAUNCH}.{name}": value for name, value in self.launch.items() if name != "world_size"}
        limits = {f"limits.{name}": value for name, value in self.engine.limits.items()}
        facts = {**self.engine.model_dump(exclude={"limits"}), "license": self.license.id}
        known = {name: value for name, value in facts.items() if value}
        return {**self.target.model_dump(), "world_size": self.target.world_size, **known, **limits, **launch}

    def step(self, stage: Stage) -> StepRecord | None:
        """The record of the step of this stage; None when there is none."""
        return next((record for record in self.steps if record.step.stage is stage), None)

    def to_json(self) -> bytes:
        """The bytes of the manifest's object."""
        return self.model_dump_json(indent=1).encode()


def build_id(target_name: str, package_key: str, gates_key: str) -> str:
    """The id of the build that the package step makes and the gates step judges. It is known before they run."""
    return f"{target_name}-{json_digest([package_key, gates_key])[:BUILD_ID_DIGITS]}"


def build_path(model: str, build_id: str) -> str:
    """The path of a build in a registry."""
    return f"{MODELS}/{model}/builds/{build_id}"


def read_manifest(data: bytes, *, subject: str = "manifest") -> Manifest:
    """Read a manifest from its bytes; `subject` is its name in errors.

    Raises:
        RegistryError: when the bytes are not a valid manifest, or have a newer schema.
    """
    try:
        plain = json.loads(data)
    except ValueError as error:
        raise RegistryError(f"is not JSON: {error}", subject=subject, remedy=PUBLISH_AGAIN) from error
    version = plain.get("schema_version") if isinstance(plain, dict) else None
    if not isinstance(version, int):
        raise RegistryError("is not a manifest: it has no schema_version", subject=subject, remedy=PUBLISH_AGAIN)
    if version > MANIFEST_SCHEMA:
        problem = f"was written by a newer Enginery (schema {version}; this one reads up to {MANIFEST_SCHEMA})"
        raise RegistryError(problem, subject=subject, remedy="upgrade Enginery")
    try:
        return _completed(Manifest.model_validate_json(data))
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        problem = f"is not a valid manifest: {path}: {first['msg']}"
        raise RegistryError(problem, subject=subject, remedy=PUBLISH_AGAIN) from error


def engine_facts(gpu: str, steps: Sequence[StepRecord]) -> EngineFacts:
    """The facts of an engine.

    Args:
        gpu: the product name of the GPU it was built for, or `cpu`.
        steps: the records of the steps that made it.
    """
    toolchains = [record.toolchain for record in steps if record.step.stage is Stage.BUILD]
    tensorrt = [found[name] for found in toolchains for name in TENSORRT_PACKAGES if name in found]
    return EngineFacts(
        compute_capability=_compute_capability(gpu), tensorrt=next(iter(tensorrt), ""), limits=_limits(steps)
    )


def read_license(texts: Mapping[str, Path]) -> License:
    """The licence of these texts; `texts` maps paths in the build to local files."""
    found = (license_id(file.read_text(encoding="utf-8", errors="replace")) for file in texts.values())
    return License(id=next(filter(None, found), ""), files=tuple(texts))


def license_id(text: str) -> str:
    """The identifier of a licence text, such as `Apache-2.0`; empty when not known."""
    head = re.sub(r"\s+", " ", text[:HEAD]).lower()
    return next((name for name, title in TITLES if re.search(title, head)), "")


def _completed(manifest: Manifest) -> Manifest:
    """The manifest in the current schema. Fields that are missing are made from the target, steps and files."""
    if manifest.schema_version >= FACTS_SCHEMA:
        return manifest.model_copy(update={"schema_version": MANIFEST_SCHEMA})
    texts = tuple(file.path for file in manifest.files if file.path.startswith(f"{LICENSES}/"))
    added = {
        "schema_version": MANIFEST_SCHEMA,
        "engine": engine_facts(manifest.target.gpu, manifest.steps),
        "license": License(files=texts),
    }
    return manifest.model_copy(update=added)


def _compute_capability(gpu: str) -> str:
    try:
        return gpus.find(gpu).compute_capability
    except UsageError:  # nvidia-smi gave this name, and our table does not have it
        return ""


def _limits(steps: Sequence[StepRecord]) -> dict[str, int]:
    """The limits of the engine and its server; of two values the smaller counts, because both must accept a request."""
    found: dict[str, list[int]] = {name: [] for name in LIMITS}
    made = [record for record in steps if record.step.stage in {Stage.BUILD, Stage.PACKAGE}]
    places = [place for record in made for place in (record.facts, record.step.recipe.parameters)]
    for limits in [place.get(name) for place in places for name in LIMIT_PLACES]:
        for name, value in limits.items() if isinstance(limits, Mapping) else ():
            if name in found and isinstance(value, int) and not isinstance(value, bool) and value > 0:
                found[name].append(value)
    return {name: min(values) for name, values in found.items() if values}

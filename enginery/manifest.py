"""The description of a published build: its files, what it is for, what it answers, and every step it comes from.

It is written last, so a build with a manifest is whole; and it is enough to check every byte of it.
"""

import json
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationError, field_validator

from enginery.digests import json_digest
from enginery.errors import RegistryError
from enginery.records import FileRecord, StepRecord
from enginery.spec_texts import Name
from enginery.steps import Frozen, Stage
from enginery.validation import ValidationReport

MANIFEST_SCHEMA = 1
MODEL_REPOSITORY = "model_repository"
BUILD_ID_DIGITS = 12


def build_id(target_name: str, package_key: str, validate_key: str) -> str:
    """The name of the build that these steps make, known before they have run."""
    return f"{target_name}-{json_digest([package_key, validate_key])[:BUILD_ID_DIGITS]}"


def _safe_path(path: str) -> str:
    parts = path.split("/")
    if PurePosixPath(path).is_absolute() or "\\" in path or any(part in {"", ".", ".."} for part in parts):
        raise ValueError(f"{path!r} is not a path inside the build")
    return path


def _safe_name(name: str) -> str:
    if "/" in _safe_path(name):
        raise ValueError(f"{name!r} is not a name")
    return name


SafeName = Annotated[str, AfterValidator(_safe_name)]


class BuildTarget(Frozen):
    """What a build was made for.

    Attributes:
        name: the target's name in its spec.
        gpu: the product name of the GPU, or `cpu`.
        backend: what runs the engine.
        release: the backend's version.
        precision: the number format of the weights.
        tensor_parallel: GPUs that share each layer.
        pipeline_parallel: GPUs that share the layers among them.
    """

    name: Name
    gpu: str
    backend: str
    release: str
    precision: str
    tensor_parallel: int = 1
    pipeline_parallel: int = 1


class Manifest(Frozen):
    """One published build.

    Attributes:
        model: the model's name in the registry.
        build_id: the build's name, unique within the model.
        created: when it was published, UTC.
        enginery: the version of Enginery that published it.
        registry: the address it was first published to.
        channel: the channel that was moved to it when it was published.
        files: every file of the build except this manifest, with paths relative to the build's prefix.
        steps: the records of the whole chain, each after those it needs.
        validation: the prompts with the answers of the engine.
    """

    schema_version: int = MANIFEST_SCHEMA
    model: Name
    build_id: SafeName
    target: BuildTarget
    created: datetime
    enginery: str
    registry: str
    channel: Name
    files: tuple[FileRecord, ...]
    steps: tuple[StepRecord, ...]
    validation: ValidationReport

    @field_validator("files")
    @classmethod
    def _paths_are_inside(cls, files: tuple[FileRecord, ...]) -> tuple[FileRecord, ...]:
        paths = [_safe_path(file.path) for file in files]
        if len({path.casefold() for path in paths}) < len(paths):
            raise ValueError("two files have the same path, or paths that differ only in upper and lower case")
        return files

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    @property
    def model_files(self) -> tuple[FileRecord, ...]:
        """The files of the model repository."""
        return tuple(file for file in self.files if file.path.startswith(f"{MODEL_REPOSITORY}/"))

    def step(self, stage: Stage) -> StepRecord | None:
        """The record of the chain's step of that stage, if it has one."""
        return next((record for record in self.steps if record.step.stage is stage), None)

    def to_json(self) -> bytes:
        """The manifest as it is written."""
        return self.model_dump_json(indent=1).encode()


def read_manifest(data: bytes, *, subject: str = "manifest") -> Manifest:
    """Read a manifest's bytes; `subject` names them in messages.

    Raises:
        RegistryError: when it is no manifest, is of a newer schema, or names files outside the build.
    """
    plain = _parse(data, subject)
    version = plain.get("schema_version")
    if not isinstance(version, int):
        raise RegistryError("is not a manifest: it has no schema_version", subject=subject, remedy=_CORRUPT)
    if version > MANIFEST_SCHEMA:
        problem = f"was written by a newer Enginery (schema {version}; this one reads up to {MANIFEST_SCHEMA})"
        raise RegistryError(problem, subject=subject, remedy="upgrade Enginery")
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        problem = f"is not a sound manifest: {path}: {first['msg']}"
        raise RegistryError(problem, subject=subject, remedy=_CORRUPT) from error


_CORRUPT = "do not use this build; publish it again"


def _parse(data: bytes, subject: str) -> dict[str, Any]:
    try:
        plain = json.loads(data)
    except ValueError as error:
        raise RegistryError(f"is not JSON: {error}", subject=subject, remedy=_CORRUPT) from error
    if not isinstance(plain, dict):
        raise RegistryError("is not a manifest", subject=subject, remedy=_CORRUPT)
    return plain

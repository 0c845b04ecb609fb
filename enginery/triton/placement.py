"""The model repository a Triton server reads, a directory or an S3 prefix, and how a build's files get there."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple, Protocol

from enginery.digests import bytes_digest
from enginery.errors import RolloutError
from enginery.files import remove_tree, write_atomic
from enginery.manifest import MODEL_REPOSITORY, Manifest
from enginery.parallel import side_by_side
from enginery.records import FileRecord
from enginery.s3 import Address, Prefix

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig  # type: ignore[import-untyped,unused-ignore]

CONFIG = "config.pbtxt"
PACKAGED_VERSION = "1"
"""The version directory of a published model; it gets another number where it is served."""
BUILD_LABEL = "enginery_build"
LAUNCH_NOTE = "launch.md"
"""Tells people how to start a server for the build; it lies beside the models and is not served."""
ENGINE_BACKEND = "tensorrtllm"
"""The backend that must be told where the engine is."""
PATH_PARAMETERS = frozenset({"gpt_model_path", "encoder_model_path", "tokenizer_dir"})
PACKAGED_PATH = re.compile(
    rf"(?P<mount>(?:/.*)?)(?P<model>/(?:tensorrt_llm|preprocessing|postprocessing))/{PACKAGED_VERSION}(?P<inside>/.*)?"
)
"""An absolute path into the version directory of a model as it was packaged."""
EMPTY_VERSION = ".keep"
"""Keeps the version directory of a model without files, such as the ensemble, in S3, which has no directories."""


class ServingRepository(Protocol):
    """What a rollout does with the files that servers read. Paths begin with the model's name."""

    where: str

    def exists(self) -> bool:
        """Whether a server could read it; an S3 prefix needs no making."""

    def entries(self) -> set[tuple[str, str]]:
        """Each model's name with the name of each file and directory right under it."""

    def read(self, path: str) -> bytes | None:
        """A file's bytes, or None when there is none."""

    def write(self, path: str, data: bytes) -> None:
        """Put a small file there, whole or not at all."""

    def bring(self, source: Prefix, record: FileRecord, path: str) -> None:
        """Put a file of the registry there."""

    def remove(self, path: str) -> None:
        """Remove a file or a whole directory; none there is fine."""


class DirectoryRepository:
    """A model repository on a file system that the server sees too."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.where = str(root)

    def exists(self) -> bool:
        """See `ServingRepository`."""
        return self.root.is_dir()

    def entries(self) -> set[tuple[str, str]]:
        """See `ServingRepository`."""
        return {(path.parent.name, path.name) for path in self.root.glob("*/*")}

    def read(self, path: str) -> bytes | None:
        """See `ServingRepository`."""
        file = self.root / path
        return file.read_bytes() if file.is_file() else None

    def write(self, path: str, data: bytes) -> None:
        """See `ServingRepository`."""
        write_atomic(self.root / path, data)

    def bring(self, source: Prefix, record: FileRecord, path: str) -> None:
        """See `ServingRepository`."""
        source.download(record.path, self.root / path, size=record.size, sha256=record.sha256)

    def remove(self, path: str) -> None:
        """See `ServingRepository`."""
        remove_tree(self.root / path)
        model = self.root / path.split("/", maxsplit=1)[0]
        if model.is_dir() and not any(model.iterdir()):
            remove_tree(model)


class BucketRepository:
    """A model repository in S3. What is in the same bucket is copied by the server, unless each byte is to be read."""

    def __init__(self, address: Address, *, reads_copies: bool = False) -> None:
        self.prefix = Prefix(address, RolloutError)
        self.reads_copies = reads_copies
        self.where = str(address)

    def exists(self) -> bool:
        """See `ServingRepository`."""
        return True

    def entries(self) -> set[tuple[str, str]]:
        """See `ServingRepository`."""
        parts = (info.path.split("/") for info in self.prefix.list())
        return {(model, name) for model, name, *_ in (part for part in parts if len(part) > 1)}

    def read(self, path: str) -> bytes | None:
        """See `ServingRepository`."""
        return self.prefix.get_bytes(path)

    def write(self, path: str, data: bytes) -> None:
        """See `ServingRepository`."""
        self.prefix.put_bytes(path, data)

    def bring(self, source: Prefix, record: FileRecord, path: str) -> None:
        """See `ServingRepository`."""
        here = self.prefix.address
        if source.address.bucket == here.bucket and not self.reads_copies:
            bucket = Prefix(Address(here.bucket, ""), RolloutError)
            bucket.copy(source.address.key(record.path), here.key(path))
            return
        with TemporaryDirectory(prefix="enginery-") as scratch:
            file = Path(scratch) / "file"
            source.download(record.path, file, size=record.size, sha256=record.sha256)
            self.prefix.upload(path, file, record.sha256)

    def remove(self, path: str) -> None:
        """See `ServingRepository`."""
        side_by_side(self.prefix.delete, [info.path for info in self.prefix.list(path)])
        self.prefix.delete(path)


def open_repository(location: str, *, reads_copies: bool = False) -> ServingRepository:
    """The repository at an `s3://` address or in a directory.

    With `reads_copies`, what is copied within S3 passes through here and is compared with its SHA-256.
    """
    if location.startswith("s3://"):
        return BucketRepository(Address.parse(location), reads_copies=reads_copies)
    return DirectoryRepository(Path(location).expanduser().absolute())


def next_version(repository: ServingRepository) -> int:
    """A version number that no model there has."""
    return max((int(name) for _, name in repository.entries() if name.isdecimal()), default=0) + 1


def remove_version(repository: ServingRepository, version: int) -> None:
    """Remove the files of a version, of every model."""
    for model, name in repository.entries():
        if name == str(version):
            repository.remove(f"{model}/{name}")


class Placement(NamedTuple):
    """Where a build's files go.

    Attributes:
        files: the registry's files with their paths in the model repository.
        configs: the registry's `config.pbtxt` of each model.
    """

    files: tuple[tuple[FileRecord, str], ...]
    configs: dict[str, FileRecord]


def arrange(manifest: Manifest, version: int) -> Placement:
    """Decide where each file of a build goes when it is served as `version`.

    Raises:
        RolloutError: when the build has files that could not be kept apart from those of other versions.
    """
    files: list[tuple[FileRecord, str]] = []
    configs: dict[str, FileRecord] = {}
    for record in manifest.model_files:
        _, model, *inside = record.path.split("/")
        if record.path == f"{MODEL_REPOSITORY}/{LAUNCH_NOTE}":
            continue
        if inside == [CONFIG]:
            configs[model] = record
        elif len(inside) > 1 and inside[0] == PACKAGED_VERSION:
            files.append((record, "/".join([model, str(version), *inside[1:]])))
        else:
            problem = f"{record.path} is neither {CONFIG} nor in the version directory {PACKAGED_VERSION}"
            raise RolloutError(problem, subject=manifest.build_id, remedy="package and publish the build again")
    if "ensemble" not in configs:
        raise RolloutError("has no ensemble model", subject=manifest.build_id, remedy="package the build again")
    return Placement(tuple(files), configs)


def place(repository: ServingRepository, source: Prefix, placement: Placement, version: int) -> None:
    """Bring the files of a build, all but the configurations: until those are there, nothing has changed."""
    side_by_side(lambda file: repository.bring(source, *file), placement.files)
    filled = {path.split("/", maxsplit=1)[0] for _, path in placement.files}
    for model in sorted(placement.configs.keys() - filled):
        repository.write(f"{model}/{version}/{EMPTY_VERSION}", b"")


def read_configs(source: Prefix, placement: Placement) -> dict[str, str]:
    """The text of each model's configuration as it was published.

    Raises:
        RolloutError: when one is missing in the registry, or other than its manifest says.
    """
    return {model: _text(source, record) for model, record in placement.configs.items()}


def _text(source: Prefix, record: FileRecord) -> str:
    data = source.get_bytes(record.path)
    if data is None or bytes_digest(data) != record.sha256:
        problem = "is missing in the registry" if data is None else "holds other bytes than its manifest says"
        raise RolloutError(problem, subject=source.where(record.path), remedy="publish the build again")
    return data.decode()


def serve_as(config_text: str, version: int, build_id: str) -> str:
    """A configuration that serves just `version`, says which build it is, and knows where that version's files are."""
    from google.protobuf import text_format  # noqa: PLC0415  not needed to make a plan
    from tritonclient.grpc import model_config_pb2  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415

    config = text_format.Parse(config_text, model_config_pb2.ModelConfig())
    config.version_policy.specific.versions[:] = [version]
    config.parameters[BUILD_LABEL].string_value = build_id
    _move_paths(config, lambda path: moved(path, version))
    return str(text_format.MessageToString(config))


def mounted_at(config_text: str, mount: str) -> str:
    """A configuration that knows where its files are once the server sees the model repository at `mount`.

    One that names no place stays as it is, to the byte.

    Raises:
        ValueError: when it is no configuration.
    """
    if not any(name in config_text for name in PATH_PARAMETERS):
        return config_text  # without the seconds that Triton's messages take to import
    from google.protobuf import text_format  # noqa: PLC0415
    from tritonclient.grpc import model_config_pb2  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415

    try:
        config = text_format.Parse(config_text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ValueError(str(error)) from error
    changed = _move_paths(config, lambda path: remounted(path, mount))
    return str(text_format.MessageToString(config)) if changed else config_text


def _move_paths(config: "ModelConfig", move: Callable[[str], str]) -> bool:
    """Change each parameter that tells a model where its files are; says whether any is another now."""
    changed = False
    for name in PATH_PARAMETERS & set(config.parameters):
        parameter = config.parameters[name]
        place = move(parameter.string_value)
        changed = changed or place != parameter.string_value
        parameter.string_value = place
    return changed


def remounted(path: str, mount: str) -> str:
    """An absolute path into a model's packaged version, as it is once the repository is at `mount`; others stay."""
    found = PACKAGED_PATH.fullmatch(path)
    return f"{mount}{found['model']}/{PACKAGED_VERSION}{found['inside'] or ''}" if found else path


def moved(path: str, version: int) -> str:
    """An absolute path into a model's packaged version, as it is once that is served as `version`; others stay."""
    found = PACKAGED_PATH.fullmatch(path)
    return f"{found['mount']}{found['model']}/{version}{found['inside'] or ''}" if found else path


def backend_of(config_text: str) -> str:
    """The backend that serves a model; empty for an ensemble."""
    from google.protobuf import text_format  # noqa: PLC0415
    from tritonclient.grpc import model_config_pb2  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415

    return str(text_format.Parse(config_text, model_config_pb2.ModelConfig()).backend)


def served_version(config_text: str) -> tuple[int | None, str | None]:
    """The version a configuration asks for, and the build it names; None for what it does not say."""
    from google.protobuf import text_format  # noqa: PLC0415
    from tritonclient.grpc import model_config_pb2  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415

    config = text_format.Parse(config_text, model_config_pb2.ModelConfig())
    versions = config.version_policy.specific.versions
    label = config.parameters[BUILD_LABEL].string_value if BUILD_LABEL in config.parameters else None
    return (max(versions) if versions else None), label


def current_configs(repository: ServingRepository, models: Iterable[str]) -> dict[str, str]:
    """The configurations that are there now, of those models that have one."""
    found = {model: repository.read(f"{model}/{CONFIG}") for model in models}
    return {model: data.decode() for model, data in found.items() if data is not None}

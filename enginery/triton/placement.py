"""The model repository a Triton server reads, a directory or an S3 prefix, and how a build's files get there."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple, Protocol

from pydantic import Field, ValidationError

from enginery.builds import CONFIG, LAUNCH_NOTE, MODEL_REPOSITORY, PACKAGED_VERSION, Manifest
from enginery.core.digests import bytes_digest
from enginery.core.errors import RolloutError
from enginery.core.files import remove_tree, write_atomic
from enginery.core.locks import Worker
from enginery.core.model import Frozen
from enginery.core.s3 import Address, Prefix, download_file, upload_file
from enginery.core.threads import side_by_side
from enginery.store import FileRecord

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
        download_file(source, record.path, self.root / path, size=record.size, sha256=record.sha256)

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
            download_file(source, record.path, file, size=record.size, sha256=record.sha256)
            upload_file(self.prefix, path, file, record.sha256)

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


def current_configs(repository: ServingRepository, models: Iterable[str]) -> dict[str, str]:
    """The configurations that are there now, of those models that have one."""
    found = {model: repository.read(f"{model}/{CONFIG}") for model in models}
    return {model: data.decode() for model, data in found.items() if data is not None}


# What a model repository remembers of its rollouts, so that one that died is undone by the next.


STATE_FILE = "rollout.json"
STATE_SCHEMA = 1

Phase = Literal["placing", "loading", "checking", "done"]


class Placed(Frozen):
    """A build as a model repository holds it: its name and its version directory's number."""

    build_id: str
    version: int


class RolloutState(Frozen):
    """What a model repository serves, and what is being put in its place.

    Attributes:
        phase: how far the last rollout has come; anything but `done` with no process at work means that it died.
        serving: the build of the last rollout that came to its end; None before the first.
        previous: the build before that; the files of its models are still there, but of those that the build in
            service does not have.
        coming: the build that is being rolled out.
        configs: the configurations before the rollout, by model, to be put back when it fails.
        endpoints: the servers it loads the build into.
        touched: by server, the models it has told that server to load; only these are undone there.
        worker: the process that does it.
        since: when the phase began, UTC.
    """

    schema_version: int = STATE_SCHEMA
    phase: Phase
    serving: Placed | None = None
    previous: Placed | None = None
    coming: Placed | None = None
    configs: Mapping[str, str] = Field(default_factory=dict)
    endpoints: tuple[str, ...] = ()
    touched: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)
    worker: Worker
    since: datetime


def read_state(repository: ServingRepository) -> RolloutState | None:
    """What the repository remembers, or None before its first rollout.

    Raises:
        RolloutError: when it cannot be understood.
    """
    data = repository.read(STATE_FILE)
    if data is None:
        return None
    try:
        return RolloutState.model_validate_json(data)
    except ValidationError as error:
        remedy = f"look at what the servers serve, then remove {STATE_FILE} and roll out again"
        raise RolloutError(f"{STATE_FILE} cannot be understood", subject=repository.where, remedy=remedy) from error


def write_state(repository: ServingRepository, state: RolloutState) -> None:
    """Remember it."""
    repository.write(STATE_FILE, state.model_dump_json(indent=1).encode())

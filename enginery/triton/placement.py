"""The model repository that a Triton server reads, a directory or an S3 prefix; copies the files of a build there."""

# ruff: noqa: D102  the methods of both repositories are documented once, in `DirectoryRepository`

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from enginery.builds import CONFIG, LAUNCH_NOTE, MODEL_REPOSITORY, PACKAGED_VERSION, Manifest
from enginery.core.digests import bytes_digest
from enginery.core.errors import RolloutError
from enginery.core.files import remove_tree, write_atomic
from enginery.core.s3 import Address, Prefix, download_file, is_address, upload_file
from enginery.core.threads import side_by_side
from enginery.store import FileRecord
from enginery.triton.served import KEEP


class DirectoryRepository:
    """A model repository on a file system that the server also sees. Paths in it begin with the model's name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.where = str(root)

    def exists(self) -> bool:
        """Whether the repository exists. An S3 prefix always exists."""
        return self.root.is_dir()

    def entries(self) -> set[tuple[str, str]]:
        """Pairs: a model's name, and the name of a file or directory directly in the model's directory."""
        return {(path.parent.name, path.name) for path in self.root.glob("*/*")}

    def read(self, path: str) -> bytes | None:
        """A file's bytes, or None if it does not exist."""
        file = self.root / path
        return file.read_bytes() if file.is_file() else None

    def write(self, path: str, data: bytes) -> None:
        """Write a small file atomically."""
        write_atomic(self.root / path, data)

    def copy(self, source: Prefix, record: FileRecord, path: str) -> None:
        """Copy a file of a build in the registry to this path."""
        download_file(source, record.path, self.root / path, size=record.size, sha256=record.sha256)

    def remove(self, path: str) -> None:
        """Remove a file or a whole directory, if it exists. If the model's directory is then empty, remove it too."""
        remove_tree(self.root / path)
        model = self.root / path.split("/", maxsplit=1)[0]
        if model.is_dir() and not any(model.iterdir()):
            remove_tree(model)


class BucketRepository:
    """A model repository in S3. Files of the same bucket are copied inside S3, unless `check_copies` is set."""

    def __init__(self, address: Address, *, check_copies: bool = False) -> None:
        self.prefix = Prefix(address, RolloutError)
        self.check_copies = check_copies
        self.where = str(address)

    def exists(self) -> bool:
        return True

    def entries(self) -> set[tuple[str, str]]:
        parts = (info.path.split("/") for info in self.prefix.list())
        return {(model, name) for model, name, *_ in (part for part in parts if len(part) > 1)}

    def read(self, path: str) -> bytes | None:
        return self.prefix.get_bytes(path)

    def write(self, path: str, data: bytes) -> None:
        self.prefix.put_bytes(path, data)

    def copy(self, source: Prefix, record: FileRecord, path: str) -> None:
        own = self.prefix.address
        if source.address.bucket == own.bucket and not self.check_copies:
            bucket = Prefix(Address(own.bucket, ""), RolloutError)
            bucket.copy(source.address.key(record.path), own.key(path))
            return
        with TemporaryDirectory(prefix="enginery-") as scratch:
            file = Path(scratch) / "file"
            download_file(source, record.path, file, size=record.size, sha256=record.sha256)
            upload_file(self.prefix, path, file, record.sha256)

    def remove(self, path: str) -> None:
        side_by_side(self.prefix.delete, [info.path for info in self.prefix.list(path)])
        self.prefix.delete(path)


ServingRepository = DirectoryRepository | BucketRepository


def open_repository(location: str, *, check_copies: bool = False) -> ServingRepository:
    """The repository at an `s3://` address or in a directory.

    With `check_copies`, no file is copied inside S3. It is downloaded, compared with its SHA-256, and uploaded.
    """
    if is_address(location):
        return BucketRepository(Address.parse(location), check_copies=check_copies)
    return DirectoryRepository(Path(location).expanduser().absolute())


def next_version(repository: ServingRepository) -> int:
    """A version number that no model of the repository has."""
    return max((int(name) for _, name in repository.entries() if name.isdecimal()), default=0) + 1


def remove_version(repository: ServingRepository, version: int) -> None:
    """Remove the files of a version from every model."""
    for model, name in repository.entries():
        if name == str(version):
            repository.remove(f"{model}/{name}")


class Placement(NamedTuple):
    """Where the files of a build go.

    Attributes:
        files: pairs: a file in the registry, and its path in the model repository.
        configs: by model, its `config.pbtxt` in the registry.
    """

    files: tuple[tuple[FileRecord, str], ...]
    configs: dict[str, FileRecord]


def arrange(manifest: Manifest, version: int) -> Placement:
    """Decide where each file of a build goes when the build is served as `version`.

    Raises:
        RolloutError: when there is no ensemble, or a file is in no version directory: other builds would overwrite it.
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
    """Copy the files of a build except the configurations. Without these, servers do not see the new version."""
    side_by_side(lambda file: repository.copy(source, *file), placement.files)
    filled = {path.split("/", maxsplit=1)[0] for _, path in placement.files}
    for model in sorted(placement.configs.keys() - filled):
        repository.write(f"{model}/{version}/{KEEP}", b"")


def read_configs(source: Prefix, placement: Placement) -> dict[str, str]:
    """The text of each model's configuration as it was published.

    Raises:
        RolloutError: when a configuration is missing in the registry, or differs from the manifest.
    """
    found: dict[str, str] = {}
    for model, record in placement.configs.items():
        data = source.get_bytes(record.path)
        if data is None or bytes_digest(data) != record.sha256:
            problem = "is missing in the registry" if data is None else "holds other bytes than its manifest says"
            raise RolloutError(problem, subject=source.where(record.path), remedy="publish the build again")
        found[model] = data.decode()
    return found


def current_configs(repository: ServingRepository, models: Iterable[str]) -> dict[str, str]:
    """Model -> its current configuration in the repository; only models that have one."""
    found = {model: repository.read(f"{model}/{CONFIG}") for model in models}
    return {model: data.decode() for model, data in found.items() if data is not None}

"""A source's files at one moment, each with its size and digest."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, JsonValue

from enginery.core.model import Frozen

WEIGHT_ENDINGS = (".safetensors", ".bin", ".pt", ".pth")

SourceKind = Literal["huggingface", "path", "s3"]


class SourceFile(Frozen):
    """A file the build needs.

    Attributes:
        name: its name in the source.
        size: bytes.
        sha256: 64 hex digits, where the source or the spec says it; None where only the download can tell.
        git_blob: the Git blob id of the content, 40 hex digits, where the Hub gives it instead of a SHA-256.
        etag: the ETag of an object in S3.
    """

    name: str
    size: int
    sha256: str | None = None
    git_blob: str | None = None
    etag: str | None = None


class ResolvedSource(Frozen):
    """A source at one moment: exactly what would be downloaded.

    Attributes:
        kind: the field of the spec it comes from.
        location: repository, absolute directory, or S3 address.
        commit: identifies the content: the Hub's commit; elsewhere a digest over the files' names and digests or etags.
        files: only those that are needed, sorted by name.
        gated: whether the Hub asks for a licence to be accepted.
        license_files: names of the licence texts among `files`.
        config: the model's `config.json`.
    """

    kind: SourceKind
    location: str
    commit: str
    files: tuple[SourceFile, ...]
    gated: bool = False
    license_files: tuple[str, ...] = ()
    config: Mapping[str, JsonValue] = Field(default_factory=dict)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the files that hold weights."""
        return sum(file.size for file in self.files if file.name.endswith(WEIGHT_ENDINGS))

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

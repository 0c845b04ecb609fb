"""The state of the tests' Hub: repositories with their commits, faults, and the requests that came."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

LFS = ("*.safetensors", "*.bin", "*.gguf", "*.pth", "*.model", "*.onnx")

FaultKind = Literal["truncate", "reset", "unavailable", "corrupt", "slow", "hold", "ignore-range", "not-json"]
"""Answers that are cut off, reset, refused with 503, sent with wrong bytes, sent slowly, or held back until `release`
is set; the whole file instead of the part that was asked for; and HTML with status 200, as some proxies send it."""


@dataclass
class Fault:
    """A failure of requests for a file, or for any path that matches.

    Attributes:
        pattern: a file name, or a pattern of the whole path such as `/api/*`.
        after: how many bytes of the answer are sent before the failure.
        times: how often it happens; None for always.
        release: ends a `hold`.
    """

    kind: FaultKind
    pattern: str
    after: int = 0
    times: int | None = 1
    bytes_per_second: int = 0
    release: threading.Event = field(default_factory=threading.Event)


@dataclass
class Refusal:
    """An error status for requests to any path that matches, in place of the answer.

    Attributes:
        pattern: a pattern of the whole path, such as `/api/*`.
        times: how often; None for always.
    """

    status: int
    pattern: str
    headers: dict[str, str]
    times: int | None


@dataclass
class Mirror:
    """How this server differs from the Hub, as mirrors of it do.

    Attributes:
        lists: what the list of files has beside the names.
        tree: whether there is the API's tree of files.
        head: whether HEAD is answered; else it is refused with 405.
        lengths: whether answers have a length; else they are sent in chunks.
        ranges: whether a part of a file can be asked for.
        commits: whether answers name the commit in `X-Repo-Commit`.
        digests: whether answers have an ETag.
        sha: what the list gives as the commit, in place of the commit.
        gated: whether the list says that a repository is gated.
        compressed: whether JSON is sent compressed.
        prefix: the path under which all is served, such as `/artifactory/api/huggingfaceml/hub`.
        upstream: the address of another server to which all requests are redirected.
    """

    lists: Literal["all", "sizes", "names", "zeros"] = "all"
    tree: bool = True
    head: bool = True
    lengths: bool = True
    ranges: bool = True
    commits: bool = True
    digests: bool = True
    sha: Callable[[str], str | None] = str
    gated: bool = True
    compressed: bool = False
    prefix: str = ""
    upstream: str = ""


@dataclass(frozen=True)
class SeenRequest:
    method: str
    path: str
    host: str
    authorization: str | None
    range: str | None


@dataclass(frozen=True)
class HubFile:
    name: str
    path: Path
    size: int
    sha256: str
    git_blob: str

    @property
    def is_lfs(self) -> bool:
        return any(fnmatchcase(self.name, pattern) for pattern in LFS)

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.git_blob

    def listed(self, mirror: Mirror) -> dict[str, Any]:
        fewer: dict[str, dict[str, Any]] = {"names": {}, "sizes": {"size": self.size}, "zeros": {"size": 0}}
        if mirror.lists != "all":
            return {"rfilename": self.name, **fewer[mirror.lists]}
        entry: dict[str, Any] = {"rfilename": self.name, "size": self.size, "blobId": self.git_blob}
        if self.is_lfs:
            entry["lfs"] = {"sha256": self.sha256, "size": self.size, "pointerSize": 135}
        return entry

    def in_tree(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": self.name, "size": self.size, "oid": self.git_blob}
        if self.is_lfs:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 135}
        return entry


@dataclass
class HubModel:
    """A repository: its commits, and the branches and tags that point to them."""

    name: str
    gated: bool = False
    private: bool = False
    commits: dict[str, dict[str, HubFile]] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)
    allowed: set[str] = field(default_factory=set)

    def commit_of(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.references.get(revision)

"""What a repository on the Hub holds at a revision: its commit, and its files with sizes and digests.

The Hub lists sizes and digests. Some mirrors list names only. What they leave out is asked for: first with one request
for the tree of files, then file by file. What nobody says stays unknown: it is never taken as 0.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from enginery.core.errors import SourceError
from enginery.sources.hub_errors import not_the_hub
from enginery.sources.hub_http import SHA256, Answer, api_address, endpoint, get_json
from enginery.sources.model_files import SourceFile

COMMIT = re.compile(r"[0-9a-fA-F]{7,64}")
WHOLE_COMMIT = re.compile(r"[0-9a-f]{40}")
GIT_BLOB = re.compile(r"[0-9a-f]{40}")
EMPTY_BLOB = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
LARGEST_GIT_FILE = 10 * 2**20
"""Larger files are stored with LFS: Git only holds a pointer. A mirror may give the pointer's blob id for them."""
MOST_PAGES = 50
NAME_IN_API = re.compile(r"/api/models/(.+?)/revision/")


class Listing(NamedTuple):
    """A repository at a revision.

    Attributes:
        repository: its name now; another one than asked for if it was renamed.
        commit: the commit of the revision.
        gated: whether users must accept a licence; None if it is not said.
        files: name -> file.
    """

    repository: str
    commit: str
    gated: bool | None
    files: Mapping[str, SourceFile]


def read_listing(repository: str, revision: str) -> Listing:
    """Ask the Hub what a repository holds.

    Raises:
        SourceError: when it cannot be reached, refuses access, or does not answer as a Hub does.
    """
    data, response = get_json(repository, revision, api_address(repository, "revision", revision), blobs="true")
    siblings = data.get("siblings") if isinstance(data, dict) else None
    if not isinstance(siblings, list):
        raise not_the_hub(repository, endpoint(), f"no list of files from {response.url.host}")
    files = {file.name: file for file in map(_listed, siblings) if file is not None}
    gated = data.get("gated")
    return Listing(
        repository=_name_now(repository, response),
        commit=_commit(data.get("sha"), response.headers.get("X-Repo-Commit"), revision),
        gated=None if gated is None else bool(gated),
        files=files,
    )


def _name_now(repository: str, response: Any) -> str:
    """The repository's name by the address to which the Hub redirected, if it did."""
    found = NAME_IN_API.search(response.url.path) if response.history else None
    return found[1] if found else repository


def _commit(stated: object, header: str | None, revision: str) -> str:
    """The commit, from what the server says; empty if it says none. A commit is also a directory's name."""
    for found in (stated, header, revision if WHOLE_COMMIT.fullmatch(revision) else None):
        if isinstance(found, str) and COMMIT.fullmatch(found):
            return found
    return ""


def no_commit(repository: str, revision: str) -> SourceError:
    """The error for a server that does not say which commit a revision is."""
    return SourceError(
        f"{urlsplit(endpoint()).hostname} does not say which commit {revision!r} is",
        subject=repository,
        remedy="set source.revision to a commit (40 hex digits), so that the plan and the download take the same files",
    )


def _listed(sibling: object) -> SourceFile | None:
    """A file as the API lists it; None if the entry is not understood."""
    if not isinstance(sibling, Mapping) or not isinstance(sibling.get("rfilename"), str):
        return None
    return _file(sibling["rfilename"], sibling, "blobId")


def _in_tree(entry: object) -> SourceFile | None:
    """A file as the tree of files lists it."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("path"), str) or entry.get("type") != "file":
        return None
    return _file(entry["path"], entry, "oid")


def _file(name: str, entry: Mapping[str, Any], blob_field: str) -> SourceFile:
    lfs = entry.get("lfs")
    if isinstance(lfs, Mapping):
        digest = _matching(SHA256, lfs.get("sha256") or lfs.get("oid"))
        return SourceFile(name=name, size=_size(lfs.get("size")) or _size(entry.get("size")), sha256=digest)
    blob, size = _matching(GIT_BLOB, entry.get(blob_field)), _size(entry.get("size"))
    if size == 0 and blob != EMPTY_BLOB:
        return SourceFile(name=name, git_blob=blob)
    if size is None or size > LARGEST_GIT_FILE:
        blob = None
    return SourceFile(name=name, size=size, git_blob=blob)


def _matching(pattern: re.Pattern[str], text: object) -> str | None:
    return text if isinstance(text, str) and pattern.fullmatch(text) else None


def _size(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def is_complete(file: SourceFile) -> bool:
    """Whether size and digest of a file are known."""
    return file.size is not None and bool(file.sha256 or file.git_blob)


def tree_files(repository: str, commit: str) -> Iterator[SourceFile]:
    """The files at the top level, as the Hub's tree lists them. Many mirrors have no tree.

    Raises:
        SourceError: when there is none, or the request fails.
    """
    address = api_address(repository, "tree", commit)
    for _ in range(MOST_PAGES):
        entries, response = get_json(repository, commit, address)
        if not isinstance(entries, list):
            raise not_the_hub(repository, endpoint(), "no list of files")
        yield from (file for file in map(_in_tree, entries) if file is not None)
        address = response.links.get("next", {}).get("url", "")
        if not address.startswith(f"{endpoint()}/"):  # the token must not go to another server
            return


def completed(file: SourceFile, more: SourceFile | Answer) -> SourceFile:
    """The file with the size and the digests that only `more` has."""
    blob = file.git_blob or (more.git_blob if isinstance(more, SourceFile) else None)
    sha256 = file.sha256 or more.sha256
    size = file.size if file.size is not None else more.size
    return file.model_copy(update={"size": size, "sha256": sha256, "git_blob": None if sha256 else blob})

"""The ways in which people write a repository of the Hugging Face Hub, and its revision.

The name on the Hub is `owner/name`. People also paste the address of a page, or of a clone:

    read_repository("https://huggingface.co/acme/tiny/tree/v1")     # Repository("acme/tiny", "v1")

What can have only one meaning is understood. Everything else is refused, with a sentence that says what to write.
"""

import re
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

HOSTS = frozenset({"huggingface.co", "www.huggingface.co", "hf.co", "hub-ci.huggingface.co"})
SCHEME = re.compile(r"^(hf|[a-z][a-z0-9+.-]*)://", re.IGNORECASE)
BARE_HOST = re.compile(rf"^(?:{'|'.join(map(re.escape, sorted(HOSTS)))})/", re.IGNORECASE)
GIT_SSH = "git@hf.co:"
NAME = re.compile(r"[\w.-]+")
OTHER_KINDS = {"datasets": "a data set", "spaces": "a Space", "kernels": "a kernel", "buckets": "a bucket"}
LOCAL = ("/", "./", "../", "~")
HOW = "write it as owner/name"
OWNER_AND_NAME = 2


class Repository(NamedTuple):
    """A repository, and the revision that its address names; None if it names none."""

    name: str
    revision: str | None = None


def read_repository(written: str) -> Repository:
    """The repository that a text names.

    Raises:
        ValueError: when it names none, or something else, with a sentence for the user.
    """
    text = written.strip()
    if text.startswith(LOCAL):
        raise ValueError(f"{written!r} is a directory, not a repository on the Hugging Face Hub; use source.path")
    if text.startswith("s3://"):
        raise ValueError(f"{written!r} is an address in S3; use source.s3")
    path, is_address = _path_of(text, written)
    parts = [part for part in path.split("/") if part]
    if parts[:1] == ["models"] and len(parts) > OWNER_AND_NAME:
        parts = parts[1:]
    if parts and parts[0] in OTHER_KINDS and len(parts) > 1:
        raise ValueError(f"{written!r} is {OTHER_KINDS[parts[0]]} on the Hugging Face Hub, not a model")
    return _named(parts, written, is_address=is_address)


def _path_of(text: str, written: str) -> tuple[str, bool]:
    """The text without the address of the Hub, and whether it had one.

    Raises:
        ValueError: when it is an address on another server.
    """
    if text.lower().startswith(GIT_SSH):
        return text[len(GIT_SSH) :], True
    if BARE_HOST.match(text):
        text = f"https://{text}"
    scheme = SCHEME.match(text)
    if not scheme:
        return text, False
    if scheme[1].lower() == "hf":
        return text[scheme.end() :], True
    try:
        host = urlsplit(text).hostname or ""
    except ValueError:
        host = ""
    if host.lower() not in HOSTS:
        raise ValueError(
            f"{written!r} is not an address of the Hugging Face Hub; {HOW}, and set HF_ENDPOINT to the server's "
            "address if it is a mirror of the Hub"
        )
    return urlsplit(text).path, True


def _named(parts: list[str], written: str, *, is_address: bool) -> Repository:
    """The repository of a path such as `owner/name` or `owner/name/tree/main`."""
    name, _, at = "/".join(parts[:OWNER_AND_NAME]).partition("@")
    revision = unquote(at) or None
    after = parts[OWNER_AND_NAME:]
    if len(parts) > 1 and parts[1] in {"tree", "commit"}:  # the oldest repositories have no owner
        name, after = parts[0], parts[1:]
    if after and (revision or not is_address):
        raise ValueError(f"{written!r} is not a repository on the Hugging Face Hub; {HOW}")
    if after:
        revision = _revision_in(after, written)
    name = name.removesuffix(".git")
    if not name or not all(NAME.fullmatch(part) for part in name.split("/")):
        raise ValueError(f"{written!r} is not a repository on the Hugging Face Hub; {HOW}")
    return Repository(name, revision)


def _revision_in(after: list[str], written: str) -> str:
    """The revision in the part of a page's address that follows the repository, such as `tree/main`."""
    kind, *rest = after
    length = 3 if rest[:1] == ["refs"] else 1  # such as refs/pr/1, the only names in which pages show slashes as such
    if kind not in {"tree", "commit"} or len(rest) != length:
        raise ValueError(
            f"{written!r} is the address of a page or a file within a repository; {HOW}, and source.revision for a "
            "branch, tag or commit"
        )
    return unquote("/".join(rest))

"""Weights from the Hugging Face Hub: a revision resolved to its commit, and the needed files of that commit.

`huggingface_hub` finds the addresses and the token, and reads the Hub's answers. The files are downloaded here, not by
the library: when its downloader is interrupted, it deletes the part of a file that has arrived, maybe gigabytes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginery.core.errors import SourceError
from enginery.core.files import write_atomic
from enginery.core.home import home
from enginery.core.late import late
from enginery.core.progress import SteadyProgress
from enginery.core.text import without_sign_in
from enginery.core.threads import raise_if_stopped
from enginery.sources.model_files import (
    ResolvedSource,
    SourceFile,
    check_expected_digests,
    raise_findings,
    select,
)
from enginery.sources.staging import PLANNING_ATTEMPTS, mismatch, patiently, size_of
from enginery.spec import Source

if TYPE_CHECKING:
    import huggingface_hub
    from huggingface_hub.hf_api import ModelInfo, RepoSibling
else:
    huggingface_hub = late("huggingface_hub")

huggingface_hub_errors: Any = late("huggingface_hub.errors")
huggingface_hub_utils: Any = late("huggingface_hub.utils")
"""Not typed: the library does not export all the names that this file uses."""

PARTIAL_CONTENT = 206
UNAUTHORIZED, FORBIDDEN, TIMEOUT, TOO_MANY = 401, 403, 408, 429
SERVER_ERRORS = 500
PLAIN_LIMIT_BYTES = 50_000_000_000
"""Larger files can only be downloaded through Xet, that is, with the Hub's own downloader."""
SIGNED_IN, ANONYMOUS = "a token", "no token"
REFUSALS = (
    ("GatedRepoError", UNAUTHORIZED, "this repository is gated, and no token was sent",
     "accept the licence at {page}, then set HF_TOKEN to a read token of that account"),
    ("GatedRepoError", None, "this repository is gated, and the token's account has no access to it",
     "accept the licence at {page} with the account of the token in HF_TOKEN, and wait until it is granted"),
    ("RepositoryNotFoundError", ANONYMOUS,
     "there is no such repository, or it is private: without a token the Hub does not tell which",
     "check the name at {page}; if it is private, set HF_TOKEN"),
    ("RepositoryNotFoundError", SIGNED_IN,
     "there is no such repository, or the token in use may not see it: the Hub does not tell which",
     "check the name at {page}, and whose token HF_TOKEN holds"),
    ("RevisionNotFoundError", None, "there is no revision {revision!r} in this repository",
     "see {page}/tree/main for the branches and tags there are"),
    ("EntryNotFoundError", None, "a file that the Hub lists is not there", "plan again"),
    ("DisabledRepoError", None, "the Hub has disabled this repository", "use another repository"),
    ("HfHubHTTPError", UNAUTHORIZED, "the Hub does not accept the token: wrong or expired",
     "make a new read token and set HF_TOKEN, or unset it for public repositories"),
    ("HfHubHTTPError", FORBIDDEN, "the Hub refuses the token's permissions",
     "use a token that may read this repository"),
)  # fmt: skip
"""Exception, HTTP status or presence of a token (None: any), problem, remedy. The first row that matches is used."""


def endpoint() -> str:
    """The Hub's address: `HF_ENDPOINT`, or the public one.

    Raises:
        SourceError: when `HF_ENDPOINT` is not a web address.
    """
    address = (os.environ.get("HF_ENDPOINT") or huggingface_hub.constants.ENDPOINT).rstrip("/")
    if not address.startswith(("http://", "https://")):
        remedy = "set it to an address such as https://hub.example.com, or unset it"
        raise SourceError("is not a web address", subject=f"HF_ENDPOINT={address}", remedy=remedy)
    return address


def resolve(source: Source) -> ResolvedSource:
    """Look up the commit of the revision, and check that it holds a model that can be built.

    Raises:
        SourceError: when the Hub cannot be reached, has no such repository or revision, or refuses access; or when the
            model has problems: it lists all of them.
    """
    repository = str(source.huggingface)
    info = patiently(lambda: _model_info(repository, source.revision), attempts=PLANNING_ATTEMPTS)
    commit = str(info.sha)
    known = {sibling.rfilename: _source_file(sibling, source) for sibling in info.siblings or ()}
    selection = select(known, source, lambda name: _small_file(repository, commit, known[name]))
    lfs = {sibling.rfilename: sibling.lfs.sha256 for sibling in info.siblings or () if sibling.lfs}
    check_expected_digests(lfs, source, selection)
    raise_findings(selection.findings, f"{repository} at {source.revision}")
    if info.gated:
        largest = max((known[name] for name in selection.names), key=lambda file: file.size)
        # The small files may come from the cache of this machine. So reading them does not prove access.
        patiently(lambda: _request_file("HEAD", repository, commit, largest), attempts=PLANNING_ATTEMPTS)
    return ResolvedSource(
        kind="huggingface",
        location=repository,
        commit=commit,
        files=tuple(known[name] for name in sorted(selection.names)),
        gated=bool(info.gated),
        config=selection.config,
    )


def fetch(repository: str, commit: str, file: SourceFile, part: Path, progress: SteadyProgress) -> None:
    """Download a file of the commit to `part`. If `part` has the beginning of the file, download only the rest.

    Raises:
        SourceError: when it cannot be downloaded; transient when the Hub cannot be reached.
    """
    if file.size > PLAIN_LIMIT_BYTES:
        patiently(lambda: _fetch_whole(repository, commit, file, part), log=progress.log)
        progress.add(file.size)
        return
    patiently(
        partial(_append, repository, commit, file, part, progress),
        log=lambda line: progress.log(f"{file.name}: {line}"),
        reached=lambda: size_of(part),
    )


def _model_info(repository: str, revision: str) -> "ModelInfo":
    where = endpoint()
    with translated_errors(repository, revision, where):
        try:
            info = huggingface_hub.HfApi(endpoint=where).model_info(
                repository,
                revision=revision,
                files_metadata=True,
                timeout=huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT,
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, ValueError) and "json" not in type(error).__name__.lower():
                raise
            raise not_the_hub(repository, where) from error
    if info.sha is None or info.siblings is None:
        raise not_the_hub(repository, where)
    return info


def _source_file(sibling: "RepoSibling", source: Source) -> SourceFile:
    name = sibling.rfilename
    if sibling.lfs:
        return SourceFile(name=name, size=sibling.lfs.size, sha256=sibling.lfs.sha256)
    return SourceFile(
        name=name, size=sibling.size or 0, sha256=source.sha256.get(name), git_blob=sibling.blob_id or None
    )


def _small_file(repository: str, commit: str, file: SourceFile) -> bytes:
    """The bytes of a small file. They are cached on this machine, since the files of a commit never change."""
    cached = home() / "sources" / "hub" / commit / file.name
    if not cached.exists() or mismatch(cached, file):
        content = patiently(lambda: _request_file("GET", repository, commit, file).content, attempts=PLANNING_ATTEMPTS)
        write_atomic(cached, content)
        if wrong := mismatch(cached, file):
            cached.unlink()
            raise SourceError(wrong, subject=f"{repository}: {file.name}", remedy="check the proxy, then plan again")
    return cached.read_bytes()


def _request_file(method: str, repository: str, commit: str, file: SourceFile) -> Any:
    """The Hub's answer to a request for a file. After HEAD, a redirect is a success: the file may be downloaded."""
    with translated_errors(repository, commit, endpoint()):
        address, headers = _address_and_headers(repository, commit, file)
        timeout = huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT
        response = huggingface_hub.get_session().request(
            method, address, headers=headers, timeout=timeout, follow_redirects=method == "GET"
        )
        if not response.is_redirect:
            huggingface_hub_utils.hf_raise_for_status(response)
        return response


def _address_and_headers(repository: str, commit: str, file: SourceFile) -> tuple[str, dict[str, str]]:
    """The file's address, and the headers of a request, with the user's token if there is one."""
    address = huggingface_hub.hf_hub_url(repository, file.name, revision=commit, endpoint=endpoint())
    return address, {**huggingface_hub_utils.build_hf_headers(library_name="enginery"), "Accept-Encoding": "identity"}


def _append(repository: str, commit: str, file: SourceFile, part: Path, progress: SteadyProgress) -> None:
    """Request the missing bytes once, and write as many as arrive."""
    with part.open("ab") as existing:
        position = existing.tell()
    if position > file.size:
        progress.add(-position)
        os.truncate(part, position := 0)
    if position == file.size:
        return
    with translated_errors(repository, commit, endpoint()):
        address, headers = _address_and_headers(repository, commit, file)
        headers |= {"Range": f"bytes={position}-"} if position else {}
        timeout = huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT
        with huggingface_hub.get_session().stream("GET", address, headers=headers, timeout=timeout) as response:
            huggingface_hub_utils.hf_raise_for_status(response)
            resumed = response.status_code == PARTIAL_CONTENT
            progress.add(0 if resumed else -position)
            with part.open("ab" if resumed else "wb", buffering=0) as output:
                for chunk in response.iter_bytes():
                    raise_if_stopped()
                    output.write(chunk)
                    progress.add(len(chunk))
    if (got := size_of(part)) < file.size:
        problem = f"the download broke off after {got} of {file.size} bytes"
        raise SourceError(problem, subject=file.name, remedy="run again: what has arrived is kept", transient=True)


def _fetch_whole(repository: str, commit: str, file: SourceFile, part: Path) -> None:
    huggingface_hub_utils.disable_progress_bars()
    where = endpoint()
    with translated_errors(repository, commit, where):
        try:
            local = part.parent / ".hub"
            done = huggingface_hub.hf_hub_download(
                repository, file.name, revision=commit, local_dir=local, endpoint=where
            )
        except huggingface_hub_errors.LocalEntryNotFoundError as error:
            problem = f"the Hub at {without_sign_in(where)} cannot be reached"
            remedy = "check the network, then run again: finished files are kept"
            raise SourceError(problem, subject=file.name, remedy=remedy, transient=True) from error
    Path(done).replace(part)


@contextmanager
def translated_errors(repository: str, revision: str, endpoint: str) -> Iterator[None]:
    """Turn the exceptions that `huggingface_hub` raises inside the block into a `SourceError`."""
    endpoint = without_sign_in(endpoint)
    try:
        yield
    except huggingface_hub_errors.HfHubHTTPError as error:
        raise _explain(error, repository, revision, endpoint) from error
    except huggingface_hub_errors.OfflineModeIsEnabled as error:
        remedy = "unset HF_HUB_OFFLINE, or use source.path with a copy on this machine"
        raise SourceError("the Hub is needed, but HF_HUB_OFFLINE is set", subject=repository, remedy=remedy) from error
    except huggingface_hub_errors.HTTPError as error:
        reason = without_sign_in(str(error)) or type(error).__name__
        raise SourceError(
            f"the Hub at {endpoint} cannot be reached, or broke off: {reason}",
            subject=repository,
            remedy="check the network, the proxy and HF_ENDPOINT, then run again: what has arrived is kept",
            transient=True,
        ) from error
    except huggingface_hub_errors.HFValidationError as error:
        remedy = "write it as owner/name"
        raise SourceError("is not the name of a repository on the Hub", subject=repository, remedy=remedy) from error


def not_the_hub(repository: str, endpoint: str) -> SourceError:
    """The error for an answer that does not follow the Hub's protocol."""
    return SourceError(
        f"{without_sign_in(endpoint)} answered, but not as a Hub does",
        subject=repository,
        remedy="check HF_ENDPOINT, and the proxy if there is one",
    )


def _explain(error: Any, repository: str, revision: str, endpoint: str) -> SourceError:
    """The error for an HTTP answer with an error status."""
    status = error.response.status_code
    states = {None, status, SIGNED_IN if huggingface_hub.get_token() else ANONYMOUS}
    for kind, state, problem, remedy in REFUSALS:
        if state in states and isinstance(error, getattr(huggingface_hub_errors, kind)):
            found = problem.format(revision=revision)
            return SourceError(found, subject=repository, remedy=remedy.format(page=f"{endpoint}/{repository}"))
    transient = status in {TIMEOUT, TOO_MANY} or status >= SERVER_ERRORS
    return SourceError(
        f"the Hub at {endpoint} answered with HTTP status {status}",
        subject=repository,
        remedy="try again in some minutes: what has arrived is kept" if transient else "check HF_ENDPOINT",
        transient=transient,
    )

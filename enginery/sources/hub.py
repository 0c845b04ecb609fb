"""Weights from the Hugging Face Hub: a revision resolved to its commit, and the needed files of that commit.

`huggingface_hub` finds the addresses, the token and the meaning of answers. The bytes are written here: its own
downloader throws a part away when it is interrupted, and a part of a 5 GB file is worth keeping.
"""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from enginery.errors import SourceError
from enginery.files import write_atomic
from enginery.home import home
from enginery.output import without_sign_in
from enginery.sources.hub_errors import not_the_hub, translated_errors
from enginery.sources.model_files import check_expected_digests, is_license, raise_findings, select
from enginery.sources.progress import Progress
from enginery.sources.resolved import ResolvedSource, SourceFile
from enginery.sources.staging import PLANNING_ATTEMPTS, mismatch, patiently
from enginery.spec import Source

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

PARTIAL_CONTENT = 206
PLAIN_LIMIT_BYTES = 50_000_000_000
"""Larger files are only to be had through Xet, that is, with the Hub's own downloader."""


def endpoint() -> str:
    """The Hub's address: `HF_ENDPOINT`, or the public one.

    Raises:
        SourceError: when `HF_ENDPOINT` is no web address.
    """
    from huggingface_hub import constants  # noqa: PLC0415

    address = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    if not address.startswith(("http://", "https://")):
        remedy = "set it to an address such as https://hub.example.com, or unset it"
        raise SourceError("is not a web address", subject=f"HF_ENDPOINT={address}", remedy=remedy)
    return address


def resolve(source: Source) -> ResolvedSource:
    """Ask the Hub what the revision stands for, and check that it is a model that can be built.

    Raises:
        SourceError: when the Hub cannot be reached, has no such repository or revision, or refuses access; or with
            everything that is wrong with the model.
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
        patiently(lambda: _require_access(repository, commit, largest), attempts=PLANNING_ATTEMPTS)
    return ResolvedSource(
        kind="huggingface",
        location=repository,
        commit=commit,
        files=tuple(known[name] for name in sorted(selection.names)),
        gated=bool(info.gated),
        license_files=tuple(sorted(filter(is_license, selection.names))),
        config=selection.config,
    )


def _model_info(repository: str, revision: str) -> "ModelInfo":
    from huggingface_hub import HfApi, constants  # noqa: PLC0415

    where = endpoint()
    with translated_errors(repository, revision, where):
        try:
            info = HfApi(endpoint=where).model_info(
                repository, revision=revision, files_metadata=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
            )
        except (KeyError, TypeError) as error:
            raise not_the_hub(repository, where) from error
        except ValueError as error:
            if "json" in type(error).__name__.lower():
                raise not_the_hub(repository, where) from error
            raise
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


def _require_access(repository: str, commit: str, file: SourceFile) -> None:
    """Ask whether a file could be had, without bringing any of it: what this machine remembers proves no access."""
    from huggingface_hub import constants, get_session  # noqa: PLC0415
    from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]  # noqa: PLC0415

    with translated_errors(repository, commit, endpoint()):
        address, headers = _request(repository, commit, file)
        response = get_session().head(
            address, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT, follow_redirects=False
        )
        if not response.is_redirect:
            hf_raise_for_status(response)


def _small_file(repository: str, commit: str, file: SourceFile) -> bytes:
    """A small file's bytes, remembered on this machine: a commit's files never change."""
    kept = home() / "sources" / "hub" / commit / file.name
    if not kept.exists() or mismatch(kept, file):
        write_atomic(kept, patiently(lambda: _get(repository, commit, file), attempts=PLANNING_ATTEMPTS))
        if wrong := mismatch(kept, file):
            kept.unlink()
            raise SourceError(wrong, subject=f"{repository}: {file.name}", remedy="check the proxy, then plan again")
    return kept.read_bytes()


def _get(repository: str, commit: str, file: SourceFile) -> bytes:
    from huggingface_hub import constants, get_session  # noqa: PLC0415
    from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]  # noqa: PLC0415

    with translated_errors(repository, commit, endpoint()):
        address, headers = _request(repository, commit, file)
        response = get_session().get(address, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
        hf_raise_for_status(response)
        return response.content


def _request(repository: str, commit: str, file: SourceFile) -> tuple[str, dict[str, str]]:
    """The file's address and the headers with the user's token, if there is one."""
    from huggingface_hub import hf_hub_url  # noqa: PLC0415
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # noqa: PLC0415

    address = hf_hub_url(repository, file.name, revision=commit, endpoint=endpoint())
    return address, {**build_hf_headers(library_name="enginery"), "Accept-Encoding": "identity"}


def fetch(repository: str, commit: str, file: SourceFile, part: Path, progress: Progress) -> None:
    """Bring a file of the commit to `part`, going on from what is there.

    Raises:
        SourceError: when it cannot be had; transient when the Hub stays away.
    """
    if file.size > PLAIN_LIMIT_BYTES:
        patiently(lambda: _fetch_whole(repository, commit, file, part), say=progress.say)
        return
    patiently(
        partial(_append, repository, commit, file, part, progress),
        say=lambda line: progress.say(f"{file.name}: {line}"),
        reached=lambda: part.stat().st_size if part.exists() else 0,
    )


def _append(repository: str, commit: str, file: SourceFile, part: Path, progress: Progress) -> None:
    """Ask once for what is missing, and write as much of it as comes."""
    from huggingface_hub import constants, get_session  # noqa: PLC0415
    from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]  # noqa: PLC0415

    with part.open("ab") as made:
        position = made.tell()
    if position > file.size:
        os.truncate(part, position := 0)
    if position == file.size:
        return
    with translated_errors(repository, commit, endpoint()):
        address, headers = _request(repository, commit, file)
        headers |= {"Range": f"bytes={position}-"} if position else {}
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", address, headers=headers, timeout=timeout) as response:
            hf_raise_for_status(response)
            goes_on = response.status_code == PARTIAL_CONTENT
            with part.open("ab" if goes_on else "wb", buffering=0) as output:
                for chunk in response.iter_bytes():
                    output.write(chunk)
                    progress.at(file.name, output.tell())
    if (got := part.stat().st_size) < file.size:
        problem = f"the download broke off after {got} of {file.size} bytes"
        raise SourceError(problem, subject=file.name, remedy="run again: what has arrived is kept", transient=True)


def _fetch_whole(repository: str, commit: str, file: SourceFile, part: Path) -> None:
    from huggingface_hub import hf_hub_download  # noqa: PLC0415
    from huggingface_hub.errors import LocalEntryNotFoundError  # noqa: PLC0415
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]  # noqa: PLC0415

    disable_progress_bars()
    where = endpoint()
    with translated_errors(repository, commit, where):
        try:
            local = part.parent / ".hub"
            done = hf_hub_download(repository, file.name, revision=commit, local_dir=local, endpoint=where)
        except LocalEntryNotFoundError as error:
            problem = f"the Hub at {without_sign_in(where)} cannot be reached"
            remedy = "check the network, then run again: finished files are kept"
            raise SourceError(problem, subject=file.name, remedy=remedy, transient=True) from error
    Path(done).replace(part)

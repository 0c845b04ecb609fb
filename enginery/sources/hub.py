"""Weights from the Hugging Face Hub: a revision resolved to its commit, and the needed files of that commit.

`huggingface_hub` finds the addresses and the token, and names the Hub's errors. The files are downloaded here, not by
the library: when its downloader is interrupted, it deletes the part of a file that has arrived, maybe gigabytes.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from enginery.core.digests import json_digest
from enginery.core.errors import SourceError
from enginery.core.files import write_atomic
from enginery.core.home import home
from enginery.core.late import late
from enginery.core.progress import Log, SteadyProgress, no_log
from enginery.core.text import first_of, without_sign_in
from enginery.core.threads import raise_if_stopped, side_by_side
from enginery.models import CONFIG
from enginery.sources.hub_errors import explain, translated_errors
from enginery.sources.hub_http import (
    PARTIAL_CONTENT,
    RANGE_NOT_SATISFIABLE,
    ask_about,
    endpoint,
    is_compressed,
    opened,
    range_start,
    total_size,
)
from enginery.sources.hub_listing import COMMIT, completed, is_complete, no_commit, read_listing, tree_files
from enginery.sources.model_files import (
    WEIGHT_ENDINGS,
    ResolvedSource,
    Selection,
    SourceFile,
    check_expected_digests,
    raise_findings,
    select,
)
from enginery.sources.rate_limits import gate_of
from enginery.sources.staging import PLANNING_ATTEMPTS, mismatch, patiently, size_of
from enginery.spec import Source

if TYPE_CHECKING:
    import huggingface_hub
else:
    huggingface_hub = late("huggingface_hub")

huggingface_hub_errors: Any = late("huggingface_hub.errors")
huggingface_hub_utils: Any = late("huggingface_hub.utils")
"""Not typed: the library does not export all the names that this file uses."""

PLAIN_LIMIT_BYTES = 50_000_000_000
"""Larger files can only be downloaded through Xet, that is, with the Hub's own downloader."""
SHOWN_FILES = 3

T = TypeVar("T")


def resolve(source: Source, log: Log = no_log) -> ResolvedSource:
    """Look up the commit of the revision, and check that it holds a model that can be built.

    Args:
        source: the spec's source.
        log: takes a line when the Hub asks to wait.

    Raises:
        SourceError: when the Hub cannot be reached, has no such repository or revision, or refuses access; or when the
            model has problems: it lists all of them.
    """
    return _Resolving(source, log).resolve()


class _Resolving:
    """Resolves one source. All requests wait and are tried again in the same way."""

    def __init__(self, source: Source, log: Log) -> None:
        self.source, self.log = source, log
        self.written = str(source.huggingface)

    def ask(self, call: Callable[[], T]) -> T:
        """The result of a request, which may be sent several times."""
        return patiently(call, gate=gate_of(endpoint()), attempts=PLANNING_ATTEMPTS, log=self.log)

    def resolve(self) -> ResolvedSource:
        revision = self.source.revision
        listing = self.ask(lambda: read_listing(self.written, revision))
        self.repository, self.known = listing.repository, dict(listing.files)
        self.commit = listing.commit or self._commit_of_config()
        self.asked = self.commit or revision
        selection = select(self.known, self.source, self._small_file)
        self._complete(selection.names)
        self._check_digests(selection)
        raise_findings(selection.findings, f"{self.repository} at {revision}", selection.config)
        files = tuple(self._with_digest_of_spec(self.known[name]) for name in sorted(selection.names))
        if listing.gated is not False:
            largest = max(files, key=lambda file: (file.name.endswith(WEIGHT_ENDINGS), file.size or 0))
            # The small files may come from the cache of this machine. So reading them does not prove access.
            self.ask(lambda: ask_about(self.repository, self.asked, largest.name))
        return ResolvedSource(
            kind="huggingface",
            location=self.repository,
            commit=self.commit or self._digest_of(files),
            revision=None if self.commit else revision,
            files=files,
            gated=bool(listing.gated),
            config=selection.config,
            chat_template=selection.chat_template,
            notes=tuple(self._notes(files)),
        )

    def _commit_of_config(self) -> str:
        """The commit, for a server whose list does not name it; empty if its answers about files do not, either."""
        if CONFIG not in self.known:
            return ""
        found = self.ask(lambda: ask_about(self.repository, self.source.revision, CONFIG)).commit
        return found if found and COMMIT.fullmatch(found) else ""

    def _digest_of(self, files: Iterable[SourceFile]) -> str:
        """What identifies the files when the server does not say the commit: their digests, if all are known."""
        digests = {file.name: file.sha256 or file.git_blob for file in files}
        if None in digests.values():
            raise no_commit(self.repository, self.source.revision)
        return json_digest(sorted(digests.items()))

    def _small_file(self, name: str) -> bytes:
        """The bytes of a small file. They are cached on this machine if its digest is known: it never changes then."""
        file = self.known[name]
        if not self.commit or not is_complete(file):
            return self._read(name)
        cached = home() / "sources" / "hub" / self.commit / name
        if not cached.exists() or mismatch(cached, file):
            write_atomic(cached, self._read(name))
            if wrong := mismatch(cached, file):
                cached.unlink()
                subject = f"{self.repository}: {name}"
                raise SourceError(wrong, subject=subject, remedy="check the proxy, then plan again")
        return cached.read_bytes()

    def _read(self, name: str) -> bytes:
        def read() -> bytes:
            with opened(self.repository, self.asked, name) as response:
                content: bytes = response.read()
                return content

        return self.ask(read)

    def _complete(self, names: Iterable[str]) -> None:
        """Ask for the sizes and digests that the list does not have."""
        lacking = [name for name in names if not is_complete(self.known[name])]
        if not lacking:
            return
        tree = self._tree()
        self.known |= {name: completed(self.known[name], tree[name]) for name in lacking if name in tree}
        still = [name for name in lacking if not is_complete(self.known[name])]
        answers = side_by_side(lambda name: self.ask(lambda: ask_about(self.repository, self.asked, name)), still)
        self.known |= {name: completed(self.known[name], answer) for name, answer in zip(still, answers, strict=True)}

    def _tree(self) -> Mapping[str, SourceFile]:
        try:
            return {file.name: file for file in self.ask(lambda: list(tree_files(self.repository, self.asked)))}
        except SourceError as error:
            if error.transient:
                raise
            return {}  # many mirrors have no tree; if access is refused, the next request reports it

    def _check_digests(self, selection: Selection) -> None:
        known = {name: file.sha256 for name, file in self.known.items() if file.sha256 is not None}
        check_expected_digests(known, self.source, selection)

    def _with_digest_of_spec(self, file: SourceFile) -> SourceFile:
        return file.model_copy(update={"sha256": file.sha256 or self.source.sha256.get(file.name)})

    def _notes(self, files: Iterable[SourceFile]) -> Iterable[str]:
        if self.repository != self.written:
            yield f"source.huggingface: {self.written} is called {self.repository} on the Hub now; both names work"
        if unsized := [file.name for file in files if file.size is None]:
            shown = first_of(unsized, SHOWN_FILES)
            yield f"the Hub at {without_sign_in(endpoint())} does not say how large these files are: {shown}"
        if unchecked := [file.name for file in files if file.sha256 is None and file.git_blob is None]:
            shown = first_of(unchecked, SHOWN_FILES)
            yield (
                f"the Hub at {without_sign_in(endpoint())} states no digest of these files, so their content cannot be "
                f"checked: {shown}; source.sha256 can state it"
            )


def fetch(repository: str, commit: str, file: SourceFile, part: Path, progress: SteadyProgress) -> None:
    """Download a file of the commit to `part`. If `part` has the beginning of the file, download only the rest.

    Raises:
        SourceError: when it cannot be downloaded; transient when the Hub cannot be reached.
    """
    gate = gate_of(endpoint())
    if file.size is not None and file.size > PLAIN_LIMIT_BYTES:
        patiently(lambda: _fetch_whole(repository, commit, file, part), gate=gate, log=progress.log)
        progress.add(file.size)
        return
    patiently(
        partial(_append, repository, commit, file, part, progress),
        gate=gate,
        log=lambda line: progress.log(f"{file.name}: {line}"),
        reached=lambda: size_of(part),
    )


def _append(repository: str, commit: str, file: SourceFile, part: Path, progress: SteadyProgress) -> None:
    """Request the missing bytes once, and write as many as arrive."""
    with part.open("ab") as existing:
        position = existing.tell()
    if file.size is not None and position > file.size:
        _begin_again(part, progress)
        position = 0
    if position == file.size:
        return
    wanted = {"Range": f"bytes={position}-"} if position else {}
    with opened(repository, commit, file.name, **wanted) as response:
        if response.status_code == RANGE_NOT_SATISFIABLE:
            _nothing_after(position, total_size(response), file, part, progress)
            return
        size = file.size if file.size is not None else total_size(response)
        _write(response, part, position, progress)
    if size is not None and (got := size_of(part)) < size:
        raise _broken_off(file, f"the download broke off after {got} of {size} bytes")


def _write(response: Any, part: Path, position: int, progress: SteadyProgress) -> None:
    """Write the content of an answer; if it is the whole file and not the rest, from the beginning."""
    resumed = response.status_code == PARTIAL_CONTENT and not is_compressed(response)
    if response.status_code == PARTIAL_CONTENT and range_start(response) not in {None, position}:
        resumed = False
    if response.status_code == PARTIAL_CONTENT and not resumed:
        _begin_again(part, progress)
        raise _broken_off_part(part)
    progress.add(0 if resumed else -position)
    with part.open("ab" if resumed else "wb", buffering=0) as output:
        for chunk in response.iter_bytes():
            raise_if_stopped()
            output.write(chunk)
            progress.add(len(chunk))


def _nothing_after(position: int, size: int | None, file: SourceFile, part: Path, progress: SteadyProgress) -> None:
    """The server has no bytes after `position`: the file is complete, or its copy there is cut off."""
    if file.size is None and size == position:
        return
    if file.size is not None and size is not None and size < file.size:
        problem = f"the server has only {size} of {file.size} bytes of this file: its copy is cut off"
        remedy = "remove the file from the cache of the mirror (HF_ENDPOINT) or of the proxy, then run again"
        raise SourceError(problem, subject=file.name, remedy=remedy)
    _begin_again(part, progress)
    raise _broken_off(file, f"the server does not continue the file after {position} bytes")


def _begin_again(part: Path, progress: SteadyProgress) -> None:
    progress.add(-size_of(part))
    os.truncate(part, 0)


def _broken_off_part(part: Path) -> SourceError:
    problem = "the server sent another part of the file than the one that was asked for"
    return SourceError(problem, subject=part.stem, remedy="check HF_ENDPOINT and the proxy", transient=True)


def _broken_off(file: SourceFile, problem: str) -> SourceError:
    return SourceError(problem, subject=file.name, remedy="run again: what has arrived is kept", transient=True)


def _fetch_whole(repository: str, commit: str, file: SourceFile, part: Path) -> None:
    huggingface_hub_utils.disable_progress_bars()
    where = endpoint()
    with translated_errors(repository, commit, where):
        try:
            local = part.parent / ".hub"
            done = huggingface_hub.hf_hub_download(
                repository, file.name, revision=commit, local_dir=local, endpoint=where
            )
        except (huggingface_hub_errors.LocalEntryNotFoundError, huggingface_hub_errors.FileMetadataError) as error:
            if isinstance(error.__cause__, huggingface_hub_errors.HfHubHTTPError):
                raise explain(error.__cause__, repository, commit, without_sign_in(where)) from error
            problem = f"the Hub at {without_sign_in(where)} cannot be reached"
            if isinstance(error, huggingface_hub_errors.FileMetadataError):
                problem = f"the Hub at {without_sign_in(where)} does not describe the file: {error}"
            remedy = "check the network, then run again: finished files are kept"
            raise SourceError(problem, subject=file.name, remedy=remedy, transient=True) from error
    Path(done).replace(part)

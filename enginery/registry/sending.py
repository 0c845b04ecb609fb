"""Sending a build's files to a registry: only those that it does not hold yet, several at once.

A file that another build in the registry holds is copied by the server. Files are compared by their SHA-256.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from enginery.builds import MANIFEST
from enginery.core.errors import RegistryError
from enginery.core.progress import Log, Progress
from enginery.core.s3 import Gone, ObjectInfo, Prefix, Upload, abort_upload, is_denied, unfinished_uploads, upload_all
from enginery.core.threads import side_by_side
from enginery.registry.claims import CLAIM
from enginery.registry.layout import is_signature
from enginery.registry.registry import Registry

SOURCES_TRIED = 3
"""Other builds that a file is copied from before it is sent instead."""
REQUESTS_AT_ONCE = 16


@dataclass(frozen=True)
class Sending:
    """Sends the files of one build.

    Attributes:
        registry: the registry.
        prefix: the build in it.
        progress: counts every file, also one that need not be sent.
        log: takes lines for people.
    """

    registry: Registry
    prefix: Prefix
    progress: Progress
    log: Log

    def send(self, files: Sequence[Upload]) -> int:
        """Bring the files into the registry, and return how many bytes were sent.

        A file that an earlier publish has sent is not sent again; one that another build holds is copied by the server.

        Raises:
            RegistryError: when a file cannot be sent, or has changed since it was digested.
        """
        abort_abandoned(self.prefix, self.log)
        size = sum(file.size for file in files)
        self.progress.begin(f"publishing to {self.prefix.address}", files=len(files), size=size)
        missing = self._missing(files)
        held = _held_files(self.registry, {file.sha256 for file in missing}, self.log) if missing else {}
        left = self._remaining(missing, lambda file: _copied(self.prefix, file, held.get(file.sha256, ())))
        upload_all(self.prefix, left, self.progress)
        sent = sum(file.size for file in left)
        present, copies = len(files) - len(missing), len(missing) - len(left)
        self.log(f"sent {sent:,} bytes in {len(left)} files; {copies} were copied by the server, {present} were there")
        return sent

    def _missing(self, files: Sequence[Upload]) -> list[Upload]:
        """The files that are not there yet. Objects that do not belong to the build are removed."""
        present = {info.path: info.size for info in self.prefix.list()}
        # A publisher that shares our claim may have finished just now: its manifest and signature stay.
        for path in present.keys() - {file.path for file in files} - {CLAIM, MANIFEST}:
            if not is_signature(path):
                self._remove(path)
        return self._remaining(
            files, lambda file: present.get(file.path) == file.size and _found(self.prefix, file.path, file) is not None
        )

    def _remove(self, path: str) -> None:
        try:
            self.prefix.delete(path)
        except RegistryError as error:
            if not is_denied(error):
                raise
            self.log(f"{self.prefix.where(path)} stays until a prune: it may not be removed from here")

    def _remaining(self, files: Sequence[Upload], is_done: Callable[[Upload], bool]) -> list[Upload]:
        """The files that are not done yet; the others are counted as finished."""

        def check(file: Upload) -> bool:
            done = is_done(file)
            if done:
                self.progress.add(file.size)
                self.progress.end_file()
            return done

        results = side_by_side(check, files, threads=REQUESTS_AT_ONCE)
        return [file for file, done in zip(files, results, strict=True) if not done]


def _found(prefix: Prefix, path: str, file: Upload) -> ObjectInfo | None:
    """The object at `path` when it holds the file, else None."""
    found = prefix.head(path)
    return found if found and (found.size, found.sha256) == (file.size, file.sha256) else None


def abort_abandoned(prefix: Prefix, log: Log) -> None:
    """Abort the multipart uploads of publishers that died.

    Everybody who sends files now has begun after the claim was made; older uploads belong to nobody.
    """
    claim = prefix.head(CLAIM)
    if claim is None or claim.modified is None:
        return
    try:
        abandoned = [upload for upload in unfinished_uploads(prefix) if upload.begun < claim.modified]
        for upload in abandoned:
            abort_upload(prefix, upload)
    except RegistryError as error:  # they only cost storage, and not every server can list them
        log(f"cannot look for unfinished uploads at {prefix.address}: {error.problem}")
        return
    if abandoned:
        log(f"removed {len(abandoned)} uploads that a publisher before had not finished")


def _held_files(registry: Registry, wanted: Collection[str], log: Log) -> dict[str, list[tuple[Prefix, str]]]:
    """SHA-256 -> in which builds manifests say that such a file is, and its path there; the newest build first."""
    found: dict[str, list[tuple[Prefix, str]]] = {}
    try:
        manifests, _ = registry.manifests()
    except RegistryError as error:
        if error.transient:
            raise
        log(f"what the registry holds cannot be looked up ({error.problem}): all files are sent")
        return {}
    for manifest in reversed(manifests):
        prefix = registry.build_prefix(manifest.model, manifest.build_id)
        for file in manifest.files:
            if file.sha256 in wanted:
                found.setdefault(file.sha256, []).append((prefix, file.path))
    return found


def _copied(prefix: Prefix, file: Upload, held: Sequence[tuple[Prefix, str]]) -> bool:
    """Whether the server could copy the file from one of these builds; not from one that is removed or altered."""
    for origin, path in held[:SOURCES_TRIED]:
        if found := _found(origin, path, file):
            with suppress(Gone):  # pruned just now
                prefix.copy_from(origin, found, file.path)
                return True
    return False

"""Sends a build's files to a registry, several at once. Files that are already there are not sent again.

When another build in the registry has the same file, the S3 server copies it. Files are compared by their SHA-256.
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
"""The number of other builds from which a copy is tried before the file is sent."""
REQUESTS_AT_ONCE = 16


@dataclass(frozen=True)
class Sending:
    """Sends the files of one build to its `prefix`; `progress` counts every file, also a file that need not be sent."""

    registry: Registry
    prefix: Prefix
    progress: Progress
    log: Log

    def send(self, files: Sequence[Upload]) -> int:
        """Bring the files into the registry; returns the number of bytes sent from this machine.

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
        """The files that the registry does not hold yet. Objects that do not belong to the build are removed."""
        present = {info.path: info.size for info in self.prefix.list()}
        # Another publisher with the same claim may have just finished, so its manifest and signature are not removed.
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
            self.log(f"{self.prefix.where(path)} stays until a prune: this user may not remove it")

    def _remaining(self, files: Sequence[Upload], is_done: Callable[[Upload], bool]) -> list[Upload]:
        """The files for which `is_done` is false; the others are counted as finished."""

        def check(file: Upload) -> bool:
            done = is_done(file)
            if done:
                self.progress.add(file.size)
                self.progress.end_file()
            return done

        results = side_by_side(check, files, threads=REQUESTS_AT_ONCE)
        return [file for file, done in zip(files, results, strict=True) if not done]


def _found(prefix: Prefix, path: str, file: Upload) -> ObjectInfo | None:
    """The object at `path` if it has the file's size and digest, else None."""
    found = prefix.head(path)
    return found if found and (found.size, found.sha256) == (file.size, file.sha256) else None


def abort_abandoned(prefix: Prefix, log: Log) -> None:
    """Abort the multipart uploads of publishers that died.

    A publisher sends files only while there is a claim, so an upload older than the claim belongs to no running one.
    """
    claim = prefix.head(CLAIM)
    if claim is None or claim.modified is None:
        return
    try:
        abandoned = [upload for upload in unfinished_uploads(prefix) if upload.begun < claim.modified]
        for upload in abandoned:
            abort_upload(prefix, upload)
    except RegistryError as error:  # not every server can list uploads, and old uploads only take up space
        log(f"cannot look for unfinished uploads at {prefix.address}: {error.problem}")
        return
    if abandoned:
        log(f"removed {len(abandoned)} uploads that an earlier publisher had not finished")


def _held_files(registry: Registry, wanted: Collection[str], log: Log) -> dict[str, list[tuple[Prefix, str]]]:
    """SHA-256 -> the builds whose manifests name such a file, each with the file's path; the newest build first."""
    found: dict[str, list[tuple[Prefix, str]]] = {}
    try:
        manifests, _ = registry.manifests()
    except RegistryError as error:
        if error.transient:
            raise
        log(f"the builds in the registry cannot be read ({error.problem}), so all files are sent")
        return {}
    for manifest in reversed(manifests):
        prefix = registry.build_prefix(manifest.model, manifest.build_id)
        for file in manifest.files:
            if file.sha256 in wanted:
                found.setdefault(file.sha256, []).append((prefix, file.path))
    return found


def _copied(prefix: Prefix, file: Upload, held: Sequence[tuple[Prefix, str]]) -> bool:
    """Let the server copy the file from one of these builds; False when none of them holds it undamaged."""
    for origin, path in held[:SOURCES_TRIED]:
        if found := _found(origin, path, file):
            with suppress(Gone):  # a prune has just removed it
                prefix.copy_from(origin, found, file.path)
                return True
    return False

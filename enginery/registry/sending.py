"""Sending a build's files: only those that are not in the registry yet, side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from enginery.context import Log
from enginery.errors import RegistryError
from enginery.parallel import side_by_side
from enginery.progress import Progress
from enginery.registry.claims import CLAIM
from enginery.registry.holdings import copied, places
from enginery.registry.layout import MANIFEST
from enginery.registry.reading import Registry
from enginery.s3 import Prefix
from enginery.s3_errors import is_denied
from enginery.s3_leftovers import abort_upload, unfinished_uploads
from enginery.signing.signatures import is_signature
from enginery.transfers import Upload, upload_all

REQUESTS_AT_ONCE = 16


@dataclass(frozen=True)
class Sending:
    """The files of a build on their way.

    Attributes:
        registry: where to.
        prefix: the build's.
        progress: is told of files that were there before, too.
        log: takes lines for people.
    """

    registry: Registry
    prefix: Prefix
    progress: Progress
    log: Log

    def send(self, files: Sequence[Upload]) -> int:
        """Bring the files to where they belong, and return how many bytes were sent for that.

        A file that an earlier publish has sent is left; one that another build has is copied by the server.

        Raises:
            RegistryError: when one of them cannot be sent, or is another than it was when it was digested.
        """
        abort_abandoned(self.prefix, self.log)
        size = sum(file.size for file in files)
        self.progress.begin(f"publishing to {self.prefix.address}", files=len(files), size=size)
        missing = self._missing(files)
        held = places(self.registry, {file.sha256 for file in missing}, self.log) if missing else {}
        left = self._without(missing, lambda file: copied(self.prefix, file, held.get(file.sha256, ())))
        upload_all(self.prefix, left, self.progress)
        sent = sum(file.size for file in left)
        there, copies = len(files) - len(missing), len(missing) - len(left)
        self.log(f"sent {sent:,} bytes in {len(left)} files; {copies} were copied by the server, {there} were there")
        return sent

    def _missing(self, files: Sequence[Upload]) -> list[Upload]:
        """Those that are not there yet. What does not belong there is removed."""
        present = {info.path: info.size for info in self.prefix.list()}
        # Whoever shares our claim may have finished just now: then manifest and signature are there, and stay.
        for path in present.keys() - {file.path for file in files} - {CLAIM, MANIFEST}:
            if not is_signature(path):
                self._remove(path)
        return self._without(files, lambda file: present.get(file.path) == file.size and _is_there(self.prefix, file))

    def _remove(self, path: str) -> None:
        try:
            self.prefix.delete(path)
        except RegistryError as error:
            if not is_denied(error):
                raise
            self.log(f"{self.prefix.where(path)} stays until a prune: it may not be removed from here")

    def _without(self, files: Sequence[Upload], is_done: Callable[[Upload], bool]) -> list[Upload]:
        """The files for which there is still something to do."""

        def ask(file: Upload) -> bool:
            done = is_done(file)
            if done:
                self.progress.add(file.size)
                self.progress.end_file()
            return done

        answers = side_by_side(ask, files, threads=REQUESTS_AT_ONCE)
        return [file for file, done in zip(files, answers, strict=True) if not done]


def _is_there(prefix: Prefix, file: Upload) -> bool:
    """Whether an earlier publish that did not come to its end has sent the file."""
    found = prefix.head(file.path)
    return found is not None and (found.size, found.sha256) == (file.size, file.sha256)


def abort_abandoned(prefix: Prefix, log: Log) -> None:
    """Free what publishers that died have left of large files.

    Whoever sends files now began after the claim was made, be it theirs or shared; what is older is nobody's.
    """
    claim = prefix.head(CLAIM)
    if claim is None or claim.modified is None:
        return
    try:
        abandoned = [upload for upload in unfinished_uploads(prefix) if upload.begun < claim.modified]
        for upload in abandoned:
            abort_upload(prefix, upload)
    except RegistryError as error:  # it only takes room there, and not every server can list it
        log(f"cannot look for unfinished uploads at {prefix.address}: {error.problem}")
        return
    if abandoned:
        log(f"removed {len(abandoned)} uploads that a publisher before had not finished")

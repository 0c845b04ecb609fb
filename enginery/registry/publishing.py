"""Publishing a build: its files first, its manifest last, then the channel."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue

from enginery.builds import (
    LICENSES,
    MANIFEST,
    MODEL_REPOSITORY,
    PROVENANCE,
    REPORT_FILE,
    BuildTarget,
    Manifest,
    SigningKey,
    build_path,
    engine_facts,
    html_report,
    provenance_statement,
    read_license,
    read_report,
)
from enginery.core.digests import file_digest, json_digest
from enginery.core.errors import RegistryError
from enginery.core.files import list_files, write_atomic
from enginery.core.model import Frozen
from enginery.core.progress import Facts, Log, LogProgress, Progress
from enginery.core.s3 import (
    Gone,
    PreconditionFailed,
    Prefix,
    Upload,
    abort_upload,
    honours_conditional_writes,
    is_denied,
    unfinished_uploads,
    upload_all,
)
from enginery.core.threads import side_by_side
from enginery.core.versions import __version__
from enginery.registry.claims import CLAIM, claimed, in_the_way, is_claimed
from enginery.registry.promoting import point_channel
from enginery.registry.registry import Registry
from enginery.registry.signatures import is_signature, sign_when_asked
from enginery.sources import is_license
from enginery.store import FileRecord, Stage, StepContext, StepRecord

# What the files of a step's output are, without reading them where the step's record says it.


def known_files(
    root: Path, chain: Sequence[StepRecord], stage: Stage, wanted: Callable[[str], bool] = lambda _: True
) -> tuple[FileRecord, ...]:
    """The files of `root`, the output of a step of this stage, sorted by path; only those whose path is `wanted`.

    Digests come from the record of that step when it names these very files, else the files are read.

    Raises:
        StoreError: for symbolic links and special files.
    """
    sizes = {path.as_posix(): (root / path).stat().st_size for path in list_files(root)}
    for record in chain:
        if record.step.stage is stage and {file.path: file.size for file in record.files} == sizes:
            return tuple(file for file in record.files if wanted(file.path))

    def read(path: str) -> FileRecord:
        return FileRecord(path=path, sha256=file_digest(root / path), size=sizes[path])

    return tuple(side_by_side(read, sorted(path for path in sizes if wanted(path))))


# Which files a registry holds already, whatever builds they are of, and the copies its server makes of them.


SOURCES_TRIED = 3


class Place(NamedTuple):
    """Where a file is: a path in the build under `prefix`."""

    prefix: Prefix
    path: str


def places(registry: Registry, digests: Iterable[str], log: Log) -> dict[str, list[Place]]:
    """SHA-256 -> where manifests say that such a file is, the newest build first.

    Who may not list the registry finds nothing: then everything is sent.
    """
    wanted = set(digests)
    found: dict[str, list[Place]] = {}
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
                found.setdefault(file.sha256, []).append(Place(prefix, file.path))
    return found


def copied(prefix: Prefix, file: Upload, held: Iterable[Place]) -> bool:
    """Let the server copy the file from one of these places; False when it is in none of them any more, or altered.

    Raises:
        RegistryError: when the server cannot be asked.
    """
    return any(_copied(prefix, file, place) for place in list(held)[:SOURCES_TRIED])


def _copied(prefix: Prefix, file: Upload, place: Place) -> bool:
    found = place.prefix.head(place.path)
    if found is None or (found.size, found.sha256) != (file.size, file.sha256):
        return False
    try:
        prefix.copy_found(place.prefix, found, file.path)
    except Gone:
        return False  # it was pruned just now
    return True


# Sending a build's files: only those that are not in the registry yet, side by side.


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


PUBLISHED = "published.json"
REPORT_PAGE = "report.html"


class PublishParameters(Frozen):
    """The parameters of a publish step."""

    model: str
    build_id: str
    target: BuildTarget
    to: str
    channel: str
    allow_unconditional_writes: bool = False


class LocalFile(NamedTuple):
    """A file to publish and what it is in the build."""

    source: Path
    record: FileRecord


class Published(Frozen):
    """What a publish step did.

    Attributes:
        registry: the registry's address.
        uri: the build's address.
        manifest_uri: the address of its manifest.
        bytes: the build's size.
        uploaded_bytes: how much of it was sent now; 0 when it was there already.
    """

    registry: str
    model: str
    build_id: str
    uri: str
    manifest_uri: str
    channel: str
    bytes: int
    uploaded_bytes: int


def publish(context: StepContext) -> Facts:
    """Put a build into the registry and point its channel at it; a build that is there already is left as it is.

    So is a channel that the build was on before and is not on any more: somebody has moved it.

    Raises:
        RegistryError: when the build did not pass its validation, the registry cannot be used safely, or it holds
            another build of this name.
        UsageError: when the build is to be signed, and the key cannot be used.
    """
    order = PublishParameters.model_validate(dict(context.parameters))
    registry = Registry(order.to)
    SigningKey.from_environment()  # one that cannot be used is found out before anything is sent
    _require_conditional_writes(registry, order)
    manifest, sources = _describe(context, order)
    found = registry.read(order.model, order.build_id)
    uploaded = 0
    if found is None:
        found, uploaded = _send_build(registry, manifest, sources, context)
    else:
        context.log(f"{order.model}/{order.build_id} is already published")
    _require_same(found, manifest, registry)
    context.log(point_channel(registry, found, order.channel))
    return _report(context, registry, order, found, uploaded)


def is_published(parameters: Mapping[str, JsonValue]) -> bool:
    """Whether what a publish step did is still so: the build is there, and its channel points at a build.

    Raises:
        RegistryError: when the registry cannot be asked.
    """
    order = PublishParameters.model_validate(dict(parameters))
    registry = Registry(order.to)
    pointer = registry.channel(order.model, order.channel, order.target.name)
    if pointer is None or not registry.exists(order.model, order.build_id):
        return False
    return pointer.build_id == order.build_id or registry.exists(order.model, pointer.build_id)


def require_publishable(parameters: Mapping[str, JsonValue]) -> None:
    """Make sure that a publish step will find its registry usable: asked before hours are spent on a build.

    Raises:
        RegistryError: when the bucket is not there, may not be written, or ignores conditional writes.
        UsageError: when the build is to be signed, and the key cannot be used.
    """
    SigningKey.from_environment()
    order = PublishParameters.model_validate(dict(parameters))
    _require_conditional_writes(Registry(order.to), order)


def _require_conditional_writes(registry: Registry, order: PublishParameters) -> None:
    if order.allow_unconditional_writes or honours_conditional_writes(registry.prefix):
        return
    raise RegistryError(
        "this S3 endpoint ignores If-None-Match, so two publishers could overwrite each other",
        subject=registry.address,
        remedy="use another endpoint, or set publish.allow_unconditional_writes and publish from one place only",
    )


def _describe(context: StepContext, order: PublishParameters) -> tuple[Manifest, list[LocalFile]]:
    report = read_report(context.inputs["report"])
    if not report.passed:
        remedy = "correct the model or the prompts; `enginery run-step` on the validate step shows the answers"
        raise RegistryError("did not pass its validation", subject=f"{order.model}/{order.build_id}", remedy=remedy)
    sources = _files(context.inputs, context.chain)
    manifest = Manifest(
        model=order.model,
        build_id=order.build_id,
        target=order.target,
        created=datetime.now(UTC),
        enginery=__version__,
        registry=order.to.rstrip("/"),
        channel=order.channel,
        files=tuple(file.record for file in sources),
        steps=context.chain,
        validation=report,
        engine=engine_facts(order.target.gpu, context.chain),
        license=read_license({file.record.path: file.source for file in sources if _is_license(file)}),
    )
    statement = _written(context.output / PROVENANCE, provenance_statement(manifest))
    manifest = _listing(manifest, statement)
    page = _written(context.output / REPORT_PAGE, html_report(manifest))
    return _listing(manifest, page), [*sources, statement, page]


def _listing(manifest: Manifest, file: LocalFile) -> Manifest:
    """The manifest with one file more: one that was made from it."""
    return manifest.model_copy(update={"files": _by_path([*manifest.files, file.record])})


def _written(path: Path, content: bytes | str) -> LocalFile:
    write_atomic(path, content)
    return _local_file(path.name, path)


def _by_path(records: Iterable[FileRecord]) -> tuple[FileRecord, ...]:
    return tuple(sorted(records, key=lambda record: record.path))


def _files(inputs: Mapping[str, Path], chain: Sequence[StepRecord]) -> list[LocalFile]:
    """The model repository, the report and the licence that came with the weights, sorted by path.

    Nothing is read where the records of the steps say what it is; sending a file finds out whether it still is.
    """
    repository, report, weights = inputs["model_repository"], inputs["report"], inputs["weights"]
    files = [
        LocalFile(repository / record.path, record.model_copy(update={"path": f"{MODEL_REPOSITORY}/{record.path}"}))
        for record in known_files(repository, chain, Stage.PACKAGE)
    ]
    files += [
        LocalFile(weights / record.path, record.model_copy(update={"path": f"{LICENSES}/{record.path}"}))
        for record in known_files(weights, chain, Stage.DOWNLOAD, _is_license_name)
    ]
    files += [
        LocalFile(report / record.path, record)
        for record in known_files(report, chain, Stage.VALIDATE, lambda path: path == REPORT_FILE)
    ]
    return sorted(files, key=lambda file: file.record.path)


def _is_license_name(path: str) -> bool:
    return "/" not in path and is_license(path)


def _is_license(file: LocalFile) -> bool:
    return file.record.path.startswith(f"{LICENSES}/")


def _local_file(path: str, source: Path) -> LocalFile:
    return LocalFile(source, FileRecord(path=path, sha256=file_digest(source), size=source.stat().st_size))


def _send_build(
    registry: Registry, manifest: Manifest, sources: list[LocalFile], context: StepContext
) -> tuple[Manifest, int]:
    """Send the files, then the manifest; returns the manifest that is there then, and how many bytes were sent."""
    prefix = registry.build_prefix(manifest.model, manifest.build_id)
    files = json_digest([file.model_dump() for file in manifest.files])
    with claimed(prefix, files):
        if found := registry.read(manifest.model, manifest.build_id):
            return found, 0  # another publisher has finished just now
        uploaded = _upload(registry, prefix, sources, context)
        if is_claimed(prefix, files):
            return _write_manifest(registry, manifest), uploaded
        if found := registry.read(manifest.model, manifest.build_id):
            return found, uploaded  # whoever shared the claim has finished
        raise in_the_way(prefix, "it took this one for dead")


def _upload(registry: Registry, prefix: Prefix, files: list[LocalFile], context: StepContext) -> int:
    """Send what is not there yet, and return how many bytes that was. What does not belong there is removed."""
    uploads = [Upload(file.source, file.record.path, file.record.size, file.record.sha256) for file in files]
    progress = context.progress or LogProgress(context.log)
    return Sending(registry, prefix, progress, context.log).send(uploads)


def _write_manifest(registry: Registry, manifest: Manifest) -> Manifest:
    """Make the build exist; when another publisher was first, theirs is the build."""
    prefix = registry.build_prefix(manifest.model, manifest.build_id)
    sign_when_asked(prefix, manifest.to_json())
    try:
        prefix.put_bytes(MANIFEST, manifest.to_json(), if_none_match=True, content_type="application/json")
    except PreconditionFailed:
        return registry.manifest(manifest.model, manifest.build_id)
    return manifest


def _require_same(published: Manifest, ours: Manifest, registry: Registry) -> None:
    """The report may differ (it holds times), the model repository may not."""
    theirs, mine = ({file.path: file for file in manifest.model_files} for manifest in (published, ours))
    different = sorted(path for path in theirs.keys() | mine.keys() if theirs.get(path) != mine.get(path))
    if different:
        more = f" and {len(different) - 1} more" if len(different) > 1 else ""
        raise RegistryError(
            f"holds another build of this name: {different[0]}{more} differ from what was built here",
            subject=registry.prefix.where(build_path(ours.model, ours.build_id)),
            remedy="use the published build; or remove it there, manifest.json first, and publish again",
        )


def _report(
    context: StepContext, registry: Registry, order: PublishParameters, manifest: Manifest, uploaded: int
) -> Facts:
    prefix = registry.build_prefix(order.model, order.build_id)
    published = Published(
        registry=registry.address,
        model=order.model,
        build_id=order.build_id,
        uri=str(prefix.address),
        manifest_uri=prefix.where(MANIFEST),
        channel=order.channel,
        bytes=manifest.size,
        uploaded_bytes=uploaded,
    )
    write_atomic(context.output / MANIFEST, manifest.to_json())
    facts: dict[str, JsonValue] = published.model_dump(mode="json")
    write_atomic(context.output / PUBLISHED, json.dumps(facts, indent=1))
    return facts

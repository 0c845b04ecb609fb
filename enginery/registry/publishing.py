"""Publishing a build: its files first, its manifest last, then the channel."""

import json
import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue

from enginery import __version__
from enginery.context import Facts, Log, StepContext
from enginery.digests import file_digest, json_digest
from enginery.errors import RegistryError
from enginery.files import write_atomic
from enginery.manifest import MODEL_REPOSITORY, BuildTarget, Manifest
from enginery.parallel import side_by_side
from enginery.records import FileRecord
from enginery.registry.claims import CLAIM, claimed, in_the_way, is_claimed
from enginery.registry.layout import MANIFEST, build_path
from enginery.registry.reading import Registry
from enginery.report import html_report
from enginery.s3 import PreconditionFailed, Prefix, honours_conditional_writes
from enginery.sources.model_files import is_license
from enginery.steps import Frozen
from enginery.store.output import digest_output
from enginery.validation import REPORT_FILE, read_report

PUBLISHED = "published.json"
LICENSES = "license"
REPORT_PAGE = "report.html"
LOG_EVERY_PERCENT = 10


class Order(Frozen):
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

    Raises:
        RegistryError: when the build did not pass its validation, the registry cannot be used safely, or it holds
            another build of this name.
    """
    order = Order.model_validate(dict(context.parameters))
    registry = Registry(order.to)
    _require_conditional_writes(registry, order)
    manifest, sources = _describe(context, order)
    found = registry.read(order.model, order.build_id)
    uploaded = 0
    if found is None:
        found, uploaded = _send_build(registry, manifest, sources, context.log)
    else:
        context.log(f"{order.model}/{order.build_id} is already published")
    _require_same(found, manifest, registry)
    registry.move_channel(order.model, order.channel, order.target.name, order.build_id)
    context.log(f"channel {order.channel} of {order.model} for {order.target.name} is now {order.build_id}")
    return _report(context, registry, order, found, uploaded)


def is_published(parameters: Mapping[str, JsonValue]) -> bool:
    """Whether what a publish step did is still so: the build is there, and its channel points at a build.

    Raises:
        RegistryError: when the registry cannot be asked.
    """
    order = Order.model_validate(dict(parameters))
    registry = Registry(order.to)
    pointer = registry.channel(order.model, order.channel, order.target.name)
    if pointer is None or not registry.exists(order.model, order.build_id):
        return False
    return pointer.build_id == order.build_id or registry.exists(order.model, pointer.build_id)


def require_publishable(parameters: Mapping[str, JsonValue]) -> None:
    """Make sure that a publish step will find its registry usable: asked before hours are spent on a build.

    Raises:
        RegistryError: when the bucket is not there, may not be written, or ignores conditional writes.
    """
    order = Order.model_validate(dict(parameters))
    _require_conditional_writes(Registry(order.to), order)


def _require_conditional_writes(registry: Registry, order: Order) -> None:
    if order.allow_unconditional_writes or honours_conditional_writes(registry.prefix):
        return
    raise RegistryError(
        "this S3 endpoint ignores If-None-Match, so two publishers could overwrite each other",
        subject=registry.address,
        remedy="use another endpoint, or set publish.allow_unconditional_writes and publish from one place only",
    )


def _describe(context: StepContext, order: Order) -> tuple[Manifest, list[LocalFile]]:
    report = read_report(context.inputs["report"])
    if not report.passed:
        remedy = "correct the model or the prompts; `enginery run-step` on the validate step shows the answers"
        raise RegistryError("did not pass its validation", subject=f"{order.model}/{order.build_id}", remedy=remedy)
    sources = _files(context.inputs)
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
    )
    page = _page(manifest, context.output)
    described = manifest.model_copy(update={"files": _by_path([*manifest.files, page.record])})
    return described, [*sources, page]


def _page(manifest: Manifest, directory: Path) -> LocalFile:
    path = directory / REPORT_PAGE
    write_atomic(path, html_report(manifest))
    return _local_file(REPORT_PAGE, path)


def _by_path(records: Iterable[FileRecord]) -> tuple[FileRecord, ...]:
    return tuple(sorted(records, key=lambda record: record.path))


def _files(inputs: Mapping[str, Path]) -> list[LocalFile]:
    """The model repository, the report and the licence that came with the weights, sorted by path."""
    repository, report, weights = inputs["model_repository"], inputs["report"], inputs["weights"]
    files = [
        LocalFile(repository / record.path, record.model_copy(update={"path": f"{MODEL_REPOSITORY}/{record.path}"}))
        for record in digest_output(repository)
    ]
    files += [_local_file(f"{LICENSES}/{file.name}", file) for file in weights.iterdir() if is_license(file.name)]
    files.append(_local_file(REPORT_FILE, report / REPORT_FILE))
    return sorted(files, key=lambda file: file.record.path)


def _local_file(path: str, source: Path) -> LocalFile:
    return LocalFile(source, FileRecord(path=path, sha256=file_digest(source), size=source.stat().st_size))


def _send_build(registry: Registry, manifest: Manifest, sources: list[LocalFile], log: Log) -> tuple[Manifest, int]:
    """Send the files, then the manifest; returns the manifest that is there then, and how many bytes were sent."""
    prefix = registry.build_prefix(manifest.model, manifest.build_id)
    files = json_digest([file.model_dump() for file in manifest.files])
    with claimed(prefix, files):
        if found := registry.read(manifest.model, manifest.build_id):
            return found, 0  # another publisher has finished just now
        uploaded = _upload(prefix, sources, log)
        if is_claimed(prefix, files):
            return _write_manifest(registry, manifest), uploaded
        if found := registry.read(manifest.model, manifest.build_id):
            return found, uploaded  # whoever shared the claim has finished
        raise in_the_way(prefix, "it took this one for dead")


def _upload(prefix: Prefix, files: list[LocalFile], log: Log) -> int:
    """Send what is not there yet, and return how many bytes that was. What does not belong there is removed."""
    present = {info.path: info.size for info in prefix.list()}
    for path in present.keys() - {file.record.path for file in files} - {CLAIM}:
        prefix.delete(path)
    total = sum(file.record.size for file in files)
    log(f"publishing {len(files)} files, {total:,} bytes, to {prefix.address}")
    progress = _Progress(total, log)

    def send(file: LocalFile) -> int:
        sent = 0 if _is_there(prefix, file.record, present) else _send(prefix, file)
        progress.add(file.record.size)
        return sent

    return sum(side_by_side(send, files))


def _is_there(prefix: Prefix, record: FileRecord, present: Mapping[str, int]) -> bool:
    """Whether an earlier publish that did not come to its end has sent the file."""
    if present.get(record.path) != record.size:
        return False
    found = prefix.head(record.path)
    return found is not None and found.sha256 == record.sha256


def _send(prefix: Prefix, file: LocalFile) -> int:
    prefix.upload(file.record.path, file.source, file.record.sha256)
    return file.record.size


class _Progress:
    """Logs how much is done, a line for each tenth."""

    def __init__(self, total: int, log: Log) -> None:
        self.total, self.log = total, log
        self.done = 0
        self.logged = 0
        self.lock = threading.Lock()

    def add(self, size: int) -> None:
        with self.lock:
            self.done += size
            percent = 100 * self.done // max(self.total, 1)
            if percent >= self.logged + LOG_EVERY_PERCENT or (self.done == self.total and percent > self.logged):
                self.logged = percent
                self.log(f"published {self.done:,} of {self.total:,} bytes ({percent}%)")


def _write_manifest(registry: Registry, manifest: Manifest) -> Manifest:
    """Make the build exist; when another publisher was first, theirs is the build."""
    prefix = registry.build_prefix(manifest.model, manifest.build_id)
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


def _report(context: StepContext, registry: Registry, order: Order, manifest: Manifest, uploaded: int) -> Facts:
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

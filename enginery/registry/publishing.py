"""Publishing a build: its files first, its manifest last, then the channel."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue

from enginery import __version__
from enginery.context import Facts, StepContext
from enginery.digests import file_digest, json_digest
from enginery.engine_facts import engine_facts
from enginery.errors import RegistryError
from enginery.files import write_atomic
from enginery.licenses import read_license
from enginery.manifest import LICENSES, MODEL_REPOSITORY, BuildTarget, Manifest
from enginery.progress import LogProgress
from enginery.provenance import PROVENANCE, provenance_statement
from enginery.records import FileRecord, StepRecord
from enginery.registry.claims import claimed, in_the_way, is_claimed
from enginery.registry.known_files import known_files
from enginery.registry.layout import MANIFEST, build_path
from enginery.registry.promoting import point_channel
from enginery.registry.reading import Registry
from enginery.registry.sending import Sending
from enginery.report import html_report
from enginery.s3 import PreconditionFailed, Prefix, honours_conditional_writes
from enginery.signing.keys import SigningKey
from enginery.signing.signatures import sign_when_asked
from enginery.sources.model_files import is_license
from enginery.steps import Frozen, Stage
from enginery.transfers import Upload
from enginery.validation import REPORT_FILE, read_report

PUBLISHED = "published.json"
REPORT_PAGE = "report.html"


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

    So is a channel that the build was on before and is not on any more: somebody has moved it.

    Raises:
        RegistryError: when the build did not pass its validation, the registry cannot be used safely, or it holds
            another build of this name.
        UsageError: when the build is to be signed, and the key cannot be used.
    """
    order = Order.model_validate(dict(context.parameters))
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
        UsageError: when the build is to be signed, and the key cannot be used.
    """
    SigningKey.from_environment()
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

"""The publish step: sends a build's files, then its manifest, and then points the channel at the build."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue

from enginery.builds import (
    ATTESTATION,
    LICENSES,
    MANIFEST,
    MODEL_REPOSITORY,
    MODELS,
    PROVENANCE,
    REFERENCE_DIRECTORY,
    REPORT_FILE,
    BuildTarget,
    GateReport,
    GateResult,
    Manifest,
    SigningKey,
    ValidationReport,
    build_path,
    engine_facts,
    html_report,
    judge_channel,
    provenance_statement,
    read_gates,
    read_license,
    read_report,
    read_speed,
    require_gates_passed,
    test_result_statement,
)
from enginery.core import __version__
from enginery.core.digests import file_digest, json_digest
from enginery.core.errors import RegistryError
from enginery.core.files import list_files, write_atomic
from enginery.core.model import Frozen
from enginery.core.progress import Facts, Log, LogProgress
from enginery.core.s3 import Upload, require_listable
from enginery.core.text import first_of
from enginery.core.threads import side_by_side
from enginery.registry.claims import Claim
from enginery.registry.registry import Registry
from enginery.registry.sending import Sending
from enginery.registry.signatures import sign_if_configured
from enginery.sources import is_license
from enginery.spec import ChannelGate, Mode
from enginery.store import FileRecord, Stage, StepContext, StepRecord

PUBLISHED = "published.json"
REPORT_PAGE = "report.html"


class PublishParameters(Frozen):
    """The parameters of a publish step; `channel_gate` is the spec's gate against the build on the channel."""

    model: str
    build_id: str
    target: BuildTarget
    to: str
    channel: str
    allow_unconditional_writes: bool = False
    channel_gate: ChannelGate = ChannelGate()


PARTS: Sequence[tuple[str, Stage, str, Callable[[str], bool]]] = (
    ("model_repository", Stage.PACKAGE, f"{MODEL_REPOSITORY}/", lambda _: True),
    ("report", Stage.VALIDATE, "", lambda path: path == REPORT_FILE),
    ("reference", Stage.REFERENCE, f"{REFERENCE_DIRECTORY}/", lambda _: True),
    ("gates", Stage.GATES, "", lambda _: True),
    ("weights", Stage.DOWNLOAD, f"{LICENSES}/", lambda path: "/" not in path and is_license(path)),
)
"""The inputs that are published: name, stage that made it, folder in the build, and a test for the files to publish.

Plans without a reference, a bench or gates, as those of older versions, have no such input."""


def publish(context: StepContext) -> Facts:
    """Put a build into the registry and point its channel at it; a build that is already published is not changed.

    A channel that pointed at this build earlier, and now points at another one, is not moved: a person or a later
    build has moved it away.

    Raises:
        ValidationError: when a gate stops the build.
        RegistryError: when the build did not pass its validation, the registry cannot be used safely, or it holds
            another build of this name.
        UsageError: when a signing key is set and cannot be used.
    """
    parameters = PublishParameters.model_validate(dict(context.parameters))
    registry = Registry(parameters.to)
    require_publishable(context.parameters)  # an error comes before anything is sent
    manifest, sources = _describe(context, parameters, registry)
    found = registry.read(parameters.model, parameters.build_id)
    uploaded = 0
    if found is None:
        found, uploaded = _send_build(registry, manifest, sources, context)
    else:
        context.log(f"{parameters.model}/{parameters.build_id} is already published")
    _require_same(found, manifest, registry)
    context.log(registry.point_channel(found, parameters.channel))
    return _report(context, registry, parameters, found, uploaded)


def is_published(values: Mapping[str, JsonValue]) -> bool:
    """Whether the result of a publish step still holds: the build exists, and its channel points at a build.

    Raises:
        RegistryError: when the registry cannot be read.
    """
    parameters = PublishParameters.model_validate(dict(values))
    registry = Registry(parameters.to)
    pointer = registry.channel(parameters.model, parameters.channel, parameters.target.name)
    if pointer is None or not registry.exists(parameters.model, parameters.build_id):
        return False
    return pointer.build_id == parameters.build_id or registry.exists(parameters.model, pointer.build_id)


def require_publishable(values: Mapping[str, JsonValue]) -> None:
    """Check that a publish step can use its registry, before hours are spent on a build.

    Raises:
        RegistryError: when the bucket does not exist, the credentials do not allow what publishing needs, or the server
            ignores conditional writes.
        UsageError: when a signing key is set and cannot be used.
    """
    SigningKey.from_environment()
    parameters = PublishParameters.model_validate(dict(values))
    registry = Registry(parameters.to)
    require_listable(registry.prefix, f"{MODELS}/{parameters.model}")
    if not registry.honours_conditional_writes() and not parameters.allow_unconditional_writes:
        harm = "If-None-Match, so two publishers could overwrite each other"
        remedy = "use another endpoint, or set publish.allow_unconditional_writes and publish from one place only"
        registry.require_conditional_writes(harm, remedy)


def _describe(
    context: StepContext, parameters: PublishParameters, registry: Registry
) -> tuple[Manifest, dict[str, Path]]:
    """Make the manifest, its statements and the report; returns the manifest, and path -> local file."""
    gates = _passed_gates(context, parameters)
    report = read_report(context.inputs["report"]) if gates else _passed_report(context, parameters)
    found = dict(_files(context.inputs, context.chain))
    sources = {record.path: file for record, file in found.items()}
    manifest = Manifest(
        model=parameters.model,
        build_id=parameters.build_id,
        target=parameters.target,
        created=datetime.now(UTC),
        enginery=__version__,
        registry=parameters.to.rstrip("/"),
        channel=parameters.channel,
        files=_by_path(found),
        steps=context.chain,
        validation=report,
        gates=gates,
        speed=read_speed(context.inputs["bench"]) if "bench" in context.inputs else None,
        engine=engine_facts(parameters.target.gpu, context.chain),
        license=read_license({path: file for path, file in sources.items() if path.startswith(f"{LICENSES}/")}),
    )
    if gates:
        manifest = _against_channel(manifest, gates, parameters, registry, context.log)
    made: list[tuple[str, Callable[[Manifest], bytes | str]]] = [(PROVENANCE, provenance_statement)]
    made += [(ATTESTATION, test_result_statement)] if gates else []
    for path, make in (*made, (REPORT_PAGE, html_report)):
        file = sources[path] = context.output / path
        write_atomic(file, make(manifest))
        record = FileRecord(path=path, sha256=file_digest(file), size=file.stat().st_size)
        manifest = manifest.model_copy(update={"files": _by_path([*manifest.files, record])})
    return manifest, sources


def _against_channel(
    manifest: Manifest, gates: GateReport, parameters: PublishParameters, registry: Registry, log: Log
) -> Manifest:
    """The manifest with the gate that compares the build with the one on the channel.

    The default only warns here, because people may publish a worse build on purpose, such as a smaller one, and may
    move the channel back. A release watch acts without them, and so its default blocks.

    Raises:
        ValidationError: when the build is worse, and the spec's mode is `block`.
    """
    result = _channel_result(manifest, parameters, registry)
    if result is None:
        return manifest
    log(result.told)
    others = tuple(one for one in gates.results if one.gate != result.gate)
    report = gates.model_copy(update={"results": (*others, result)})
    require_gates_passed(report, manifest.reference)
    return manifest.model_copy(update={"gates": report})


def _channel_result(manifest: Manifest, parameters: PublishParameters, registry: Registry) -> GateResult | None:
    """The gate's result; None if it is off, or if the channel will not be moved to the build."""
    gate, mode = parameters.channel_gate, parameters.channel_gate.mode or Mode.WARN
    if mode is Mode.OFF:
        return None
    pointer = registry.channel(manifest.model, parameters.channel, parameters.target.name)
    if pointer and (pointer.build_id == manifest.build_id or pointer.was_on(manifest.build_id, manifest.created)):
        return None
    before = registry.read(manifest.model, pointer.build_id) if pointer else None
    return judge_channel(before, manifest, gate, mode)


def _passed_gates(context: StepContext, parameters: PublishParameters) -> GateReport | None:
    """The report of the gates; None for the plan of an older version, which has no gates.

    Raises:
        ValidationError: when a gate stops the build.
    """
    if "gates" not in context.inputs:
        return None
    report = read_gates(context.inputs["gates"])
    require_gates_passed(report, f"{parameters.model}/{parameters.build_id}")
    return report


def _passed_report(context: StepContext, parameters: PublishParameters) -> ValidationReport:
    report = read_report(context.inputs["report"])
    if report.passed:
        return report
    remedy = "correct the model or the prompts; `enginery run-step` on the validate step shows the answers"
    subject = f"{parameters.model}/{parameters.build_id}"
    raise RegistryError("did not pass its validation", subject=subject, remedy=remedy)


def _by_path(files: Iterable[FileRecord]) -> tuple[FileRecord, ...]:
    return tuple(sorted(files, key=lambda record: record.path))


def _files(inputs: Mapping[str, Path], chain: Sequence[StepRecord]) -> Iterator[tuple[FileRecord, Path]]:
    """The files of the build that earlier steps have made, each with its local file."""
    for name, stage, folder, wanted in (part for part in PARTS if part[0] in inputs):
        for record in _known_files(inputs[name], chain, stage, wanted):
            yield record.model_copy(update={"path": f"{folder}{record.path}"}), inputs[name] / record.path


def _send_build(
    registry: Registry, manifest: Manifest, sources: Mapping[str, Path], context: StepContext
) -> tuple[Manifest, int]:
    """Send the files, then the manifest; returns the published manifest, and the number of bytes sent."""
    prefix = registry.build_prefix(manifest.model, manifest.build_id)
    claim = Claim(prefix, json_digest([file.model_dump() for file in manifest.files]))
    with claim.hold():
        if found := registry.read(manifest.model, manifest.build_id):
            return found, 0  # another publisher finished before this one had the claim
        uploads = [Upload(sources[file.path], file.path, file.size, file.sha256) for file in manifest.files]
        progress = context.progress or LogProgress(context.log)
        uploaded = Sending(registry, prefix, progress, context.log).send(uploads)
        if claim.is_ours():
            return _write_manifest(registry, manifest), uploaded
        if found := registry.read(manifest.model, manifest.build_id):
            return found, uploaded  # a publisher of the same files, with the same claim, has finished
        raise claim.held_error("it has taken over the claim of this publisher")


def _write_manifest(registry: Registry, manifest: Manifest) -> Manifest:
    """Write the manifest, so that the build exists; when another publisher was first, return its manifest."""
    prefix = registry.build_prefix(manifest.model, manifest.build_id)
    sign_if_configured(prefix, manifest.to_json())
    if prefix.swap(MANIFEST, manifest.to_json(), None):
        return manifest
    return registry.manifest(manifest.model, manifest.build_id)


def _require_same(published: Manifest, ours: Manifest, registry: Registry) -> None:
    """Make sure that the model repositories are equal. The reports may differ, because they hold times."""
    theirs, mine = ({file.path: file for file in manifest.model_files} for manifest in (published, ours))
    different = sorted(path for path in theirs.keys() | mine.keys() if theirs.get(path) != mine.get(path))
    if different:
        raise RegistryError(
            f"holds another build of this name: {first_of(different, 1)} differ from what was built here",
            subject=registry.prefix.where(build_path(ours.model, ours.build_id)),
            remedy="use the published build; or remove it there, manifest.json first, and publish again",
        )


def _report(
    context: StepContext, registry: Registry, parameters: PublishParameters, manifest: Manifest, uploaded: int
) -> Facts:
    prefix = registry.build_prefix(parameters.model, parameters.build_id)
    facts: dict[str, JsonValue] = {
        "registry": registry.address,
        "model": parameters.model,
        "build_id": parameters.build_id,
        "uri": str(prefix.address),
        "manifest_uri": prefix.where(MANIFEST),
        "channel": parameters.channel,
        "bytes": manifest.size,
        "uploaded_bytes": uploaded,
    }
    write_atomic(context.output / MANIFEST, manifest.to_json())
    write_atomic(context.output / PUBLISHED, json.dumps(facts, indent=1))
    return facts


def _known_files(
    root: Path, chain: Sequence[StepRecord], stage: Stage, wanted: Callable[[str], bool]
) -> tuple[FileRecord, ...]:
    """The wanted files below `root`, sorted by path; `root` is the output of a step of this stage.

    The digests come from the step's record. If the record names other files or sizes, the files are read.
    """
    sizes = {path.as_posix(): (root / path).stat().st_size for path in list_files(root)}
    for record in chain:
        if record.step.stage is stage and {file.path: file.size for file in record.files} == sizes:
            return tuple(file for file in record.files if wanted(file.path))

    def read(path: str) -> FileRecord:
        return FileRecord(path=path, sha256=file_digest(root / path), size=sizes[path])

    return tuple(side_by_side(read, sorted(path for path in sizes if wanted(path))))

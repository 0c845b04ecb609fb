"""A build's provenance for others' tools: an in-toto statement with a SLSA v1 predicate, from the manifest alone.

What each field means is written in docs/provenance.md. The same build gives the same bytes, whoever publishes it and
when: nothing of the publishing is in it.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING

from pydantic import JsonValue

from enginery.digests import bytes_digest, canonical_json
from enginery.errors import RegistryError
from enginery.manifest import Manifest
from enginery.materials import step_uri, toolchain_materials, weight_materials
from enginery.records import FileRecord, StepRecord
from enginery.steps import Stage
from enginery.validation import REPORT_FILE

if TYPE_CHECKING:
    from enginery.s3 import Prefix

PROVENANCE = "provenance.intoto.jsonl"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:enginery:build-type:model-engine:v1"
BUILDER = "urn:enginery:builder:v1"

Plain = dict[str, JsonValue]


def provenance_statement(manifest: Manifest) -> bytes:
    """The statement as it is published: one line of canonical JSON.

    Raises:
        RegistryError: when the manifest does not say enough for a sound one.
    """
    predicate: Plain = {"buildDefinition": _definition(manifest), "runDetails": _run(manifest)}
    statement: Plain = {
        "_type": STATEMENT_TYPE,
        "subject": [_file(record.path, record) for record in manifest.model_files],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    _require_sound(statement, predicate, manifest)
    return canonical_json(statement) + b"\n"


def published_statement(manifest: Manifest, prefix: "Prefix") -> bytes:
    """The statement that was published with a build; made now for a build from before there were any.

    Raises:
        RegistryError: when it is not there any more, or not the one that was published.
    """
    listed = next((file for file in manifest.files if file.path == PROVENANCE), None)
    if listed is None:
        return provenance_statement(manifest)
    data = prefix.get_bytes(PROVENANCE)
    if data is None or bytes_digest(data) != listed.sha256:
        problem = "is not there" if data is None else "holds other bytes than the manifest says"
        remedy = "do not use this build; publish it again"
        raise RegistryError(problem, subject=prefix.where(PROVENANCE), remedy=remedy)
    return data


def _file(name: str, record: FileRecord) -> Plain:
    return {"name": name, "digest": {"sha256": record.sha256}}


def _definition(manifest: Manifest) -> Plain:
    return {
        "buildType": BUILD_TYPE,
        "externalParameters": _asked(manifest),
        "internalParameters": {"steps": [_step(record) for record in manifest.steps]},
        "resolvedDependencies": [*weight_materials(manifest.steps), *toolchain_materials(manifest.steps)],
    }


def _asked(manifest: Manifest) -> Plain:
    """What the user's spec asked for, as far as it makes the build what it is."""
    prompts: list[JsonValue] = [
        {"prompt": result.prompt, "expected": dict(result.expected)} for result in manifest.validation.results
    ]
    return {
        "model": manifest.model,
        "source": _source(manifest),
        "target": manifest.target.model_dump(mode="json"),
        "validation": prompts,
    }


def _source(manifest: Manifest) -> Plain:
    downloaded = manifest.step(Stage.DOWNLOAD)
    parameters = downloaded.step.recipe.parameters if downloaded else {}
    return {name: parameters[name] for name in ("kind", "location", "commit") if name in parameters}


def _step(record: StepRecord) -> Plain:
    """What determines a step, and so its key."""
    return {"key": record.key, "label": record.label, **record.step.model_dump(mode="json")}


def _run(manifest: Manifest) -> Plain:
    return {
        "builder": {"id": BUILDER, "version": {"enginery": manifest.enginery}},
        "metadata": {"invocationId": f"{manifest.model}/{manifest.build_id}", **_times(manifest.steps)},
        "byproducts": [*_reports(manifest), *chain.from_iterable(_byproducts(record) for record in manifest.steps)],
    }


def _times(steps: tuple[StepRecord, ...]) -> Plain:
    """From when the first step began until the last one ended; a step that was done for an earlier build counts too."""
    if not steps:
        return {}
    ended = (record.started + timedelta(seconds=record.seconds) for record in steps)
    return {"startedOn": _moment(min(record.started for record in steps)), "finishedOn": _moment(max(ended))}


def _moment(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _reports(manifest: Manifest) -> Iterator[Plain]:
    for record in manifest.files:
        if record.path == REPORT_FILE:
            yield {**_file(record.path, record), "mediaType": "application/json"}


def _byproducts(record: StepRecord) -> Iterator[Plain]:
    """A step as it was run, and the files that it made on the way: weights and model repository are told elsewhere."""
    ran: Plain = {
        "host": record.host,
        "started": _moment(record.started),
        "seconds": record.seconds,
        "peakMemoryBytes": record.peak_memory_bytes,
        "enginery": record.enginery,
    }
    yield {"name": record.label, "uri": step_uri(record.key), "annotations": ran}
    if record.step.stage not in {Stage.DOWNLOAD, Stage.PACKAGE}:
        for file in record.files:
            yield {**_file(f"{record.label}/{file.path}", file), "annotations": {"step": step_uri(record.key)}}


def _require_sound(statement: Plain, predicate: Plain, manifest: Manifest) -> None:
    """Let in-toto's own types read it: a field that they do not know, or that is of another kind, is a mistake."""
    from google.protobuf.json_format import ParseDict, ParseError  # noqa: PLC0415  not needed to make a plan
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2  # type: ignore[import-untyped] # noqa: PLC0415
    from in_toto_attestation.v1 import statement_pb2  # type: ignore[import-untyped] # noqa: PLC0415
    from in_toto_attestation.v1.statement import Statement  # type: ignore[import-untyped] # noqa: PLC0415

    try:
        Statement.copy_from_pb(ParseDict(statement, statement_pb2.Statement())).validate()
        ParseDict(predicate, provenance_pb2.Provenance())
    except (ParseError, ValueError) as error:
        problem = f"no sound provenance statement can be made of this manifest: {error}"
        subject = f"{manifest.model}/{manifest.build_id}"
        raise RegistryError(problem, subject=subject, remedy="package the build again") from error

"""A build's provenance for others' tools: an in-toto statement with a SLSA v1 predicate, from the manifest alone.

What each field means is written in docs/provenance.md. The same build gives the same bytes, whoever publishes it and
when: nothing of the publishing is in it.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING
from urllib.parse import quote

from pydantic import JsonValue

from enginery.builds.manifest import Manifest
from enginery.builds.validation import REPORT_FILE
from enginery.core.digests import bytes_digest, canonical_json
from enginery.core.errors import RegistryError
from enginery.core.late import late
from enginery.core.s3 import Prefix
from enginery.store import Call, FileRecord, Stage, StepRecord

if TYPE_CHECKING:
    from google.protobuf import json_format as google_protobuf_json_format
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    from in_toto_attestation.v1 import statement as in_toto_attestation_v1_statement
    from in_toto_attestation.v1 import statement_pb2
else:
    google_protobuf_json_format = late("google.protobuf.json_format")
    in_toto_attestation_v1_statement = late("in_toto_attestation.v1.statement")
    provenance_pb2 = late("in_toto_attestation.predicates.provenance.v1.provenance_pb2")
    statement_pb2 = late("in_toto_attestation.v1.statement_pb2")


# What a build was made from, as in-toto's resource descriptors: the weights and the toolchains' packages.
#
# Addresses are package URLs (`pkg:huggingface/…`, `pkg:pypi/…`), which others' tools look up.


NOT_PACKAGES = frozenset({"verdict", "disagreements", "gpu", "driver", "image", "image-id"})
"""What the probe of a toolchain says besides its packages."""

Descriptor = dict[str, JsonValue]


def step_uri(key: str) -> str:
    """The name of a step in a statement."""
    return f"urn:enginery:step:{key}"


def weight_materials(steps: Iterable[StepRecord]) -> Iterator[Descriptor]:
    """The source at its commit, then each of its files that was downloaded."""
    for record in steps:
        if record.step.stage is Stage.DOWNLOAD and isinstance(record.step.recipe, Call):
            yield _source_descriptor(record.step.recipe)
            for file in record.files:
                yield {"name": f"weights/{file.path}", "digest": {"sha256": file.sha256}}


def _source_descriptor(recipe: Call) -> Descriptor:
    kind, location, commit = (str(recipe.parameters.get(name, "")) for name in ("kind", "location", "commit"))
    if kind == "huggingface":
        uri = f"pkg:huggingface/{quote(location)}@{quote(commit, safe='')}"
        return {"name": "weights", "uri": uri, "digest": {"gitCommit": commit}}
    # Elsewhere a commit is a digest over the names and digests of the files: Enginery's own, so no digest to compare.
    where: Descriptor = {"downloadLocation": location} if location else {}
    return {"name": "weights", "uri": f"urn:enginery:weights:{quote(commit, safe='')}", **where}


def toolchain_materials(steps: Iterable[StepRecord]) -> list[Descriptor]:
    """The packages and images of the steps' toolchains, each once, in the order of their addresses."""
    found = {str(material["uri"]): material for record in steps for material in _of_toolchain(record.toolchain)}
    return [found[uri] for uri in sorted(found)]


def _of_toolchain(toolchain: Mapping[str, str]) -> Iterator[Descriptor]:
    for name, version in toolchain.items():
        if name not in NOT_PACKAGES:
            kind = "generic" if name == "python" else "pypi"
            yield {"name": name, "uri": f"pkg:{kind}/{quote(name.lower(), safe='')}@{quote(version, safe='')}"}
    if image := toolchain.get("image"):
        algorithm, _, digest = toolchain.get("image-id", "").partition(":")
        named: Descriptor = {"name": image, "uri": f"pkg:docker/{quote(image, safe='/:')}"}
        yield named | ({"digest": {algorithm: digest}} if digest else {})


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
    try:
        in_toto_attestation_v1_statement.Statement.copy_from_pb(
            google_protobuf_json_format.ParseDict(statement, statement_pb2.Statement())
        ).validate()
        google_protobuf_json_format.ParseDict(predicate, provenance_pb2.Provenance())
    except (google_protobuf_json_format.ParseError, ValueError) as error:
        problem = f"no sound provenance statement can be made of this manifest: {error}"
        subject = f"{manifest.model}/{manifest.build_id}"
        raise RegistryError(problem, subject=subject, remedy="package the build again") from error

"""A build's provenance for other tools: an in-toto statement with a SLSA v1 predicate, made from the manifest alone.

docs/provenance.md explains each field. The statement says nothing about the publishing, so the same build always gives
the same bytes. The sources of a build are named by package URLs (`pkg:huggingface/…`, `pkg:pypi/…`), which other tools
understand.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING
from urllib.parse import quote

from pydantic import JsonValue

from enginery.builds.manifest import PUBLISH_AGAIN, Manifest
from enginery.builds.validation import REPORT_FILE
from enginery.core.digests import bytes_digest, canonical_json
from enginery.core.errors import RegistryError
from enginery.core.late import late
from enginery.core.s3 import Prefix
from enginery.store import Call, FileRecord, Stage, StepRecord

if TYPE_CHECKING:
    from google.protobuf import json_format
    from google.protobuf.message import Message
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    from in_toto_attestation.v1 import statement as statements
    from in_toto_attestation.v1 import statement_pb2
else:
    json_format = late("google.protobuf.json_format")
    statements = late("in_toto_attestation.v1.statement")
    provenance_pb2 = late("in_toto_attestation.predicates.provenance.v1.provenance_pb2")
    statement_pb2 = late("in_toto_attestation.v1.statement_pb2")


NOT_PACKAGES = frozenset({"verdict", "disagreements", "gpu", "driver", "image", "image-id"})
"""The entries of a step record's `toolchain` that are not packages."""
PROVENANCE = "provenance.intoto.jsonl"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:enginery:build-type:model-engine:v1"
BUILDER = "urn:enginery:builder:v1"

Plain = dict[str, JsonValue]


def provenance_statement(manifest: Manifest) -> bytes:
    """The provenance statement of a build, as one line of canonical JSON.

    Raises:
        RegistryError: when no valid statement can be made from the manifest.
    """
    predicate: Plain = {"buildDefinition": _definition(manifest), "runDetails": _run(manifest)}
    return make_statement(manifest, PREDICATE_TYPE, predicate, provenance_pb2.Provenance())


def make_statement(manifest: Manifest, kind: str, predicate: Plain, message: "Message") -> bytes:
    """An in-toto statement about the model files of a build, as one line of canonical JSON.

    Args:
        manifest: the build's manifest.
        kind: the type of the predicate, a URI.
        predicate: what is said of the files.
        message: an empty message of in-toto's own type, to check the predicate with.

    Raises:
        RegistryError: when the statement is not valid.
    """
    statement: Plain = {
        "_type": STATEMENT_TYPE,
        "subject": [_file(record.path, record) for record in manifest.model_files],
        "predicateType": kind,
        "predicate": predicate,
    }
    _require_valid(statement, predicate, message, manifest)
    return canonical_json(statement) + b"\n"


def published_statement(manifest: Manifest, prefix: Prefix) -> bytes:
    """The statement that was published with a build. Old builds have none; for them it is made now.

    Raises:
        RegistryError: when the published statement was removed or altered.
    """
    return published_file(manifest, prefix, PROVENANCE) or provenance_statement(manifest)


def published_file(manifest: Manifest, prefix: Prefix, path: str) -> bytes | None:
    """A small file of a published build, compared with its digest; None if the build has no such file.

    Raises:
        RegistryError: when the file was removed or altered.
    """
    listed = next((file for file in manifest.files if file.path == path), None)
    if listed is None:
        return None
    data = prefix.get_bytes(path)
    if data is None or bytes_digest(data) != listed.sha256:
        problem = "is not there" if data is None else "holds other bytes than the manifest says"
        raise RegistryError(problem, subject=prefix.where(path), remedy=PUBLISH_AGAIN)
    return data


def _file(name: str, record: FileRecord) -> Plain:
    return {"name": name, "digest": {"sha256": record.sha256}}


def _definition(manifest: Manifest) -> Plain:
    """The inputs of the build: the part of the spec that it depends on, the steps with their keys, and the sources."""
    steps = manifest.steps
    return {
        "buildType": BUILD_TYPE,
        "externalParameters": _parameters(manifest),
        "internalParameters": {
            "steps": [{"key": one.key, "label": one.label, **one.step.model_dump(mode="json")} for one in steps]
        },
        "resolvedDependencies": [*_weight_materials(steps), *_toolchain_materials(steps)],
    }


def _parameters(manifest: Manifest) -> Plain:
    downloaded = manifest.step(Stage.DOWNLOAD)
    origin = downloaded.step.recipe.parameters if downloaded else {}
    results = manifest.validation.results
    return {
        "model": manifest.model,
        "source": {name: origin[name] for name in ("kind", "location", "commit") if name in origin},
        "target": manifest.target.model_dump(mode="json"),
        "validation": [{"prompt": result.text_sent, "expected": dict(result.expected)} for result in results],
    }


def _weight_materials(steps: Iterable[StepRecord]) -> Iterator[Plain]:
    """The source of the weights at its commit, then each downloaded file."""
    for record in steps:
        if record.step.stage is Stage.DOWNLOAD and isinstance(record.step.recipe, Call):
            yield _source_material(record.step.recipe)
            for file in record.files:
                yield {"name": f"weights/{file.path}", "digest": {"sha256": file.sha256}}


def _source_material(recipe: Call) -> Plain:
    kind, location, commit = (str(recipe.parameters.get(name, "")) for name in ("kind", "location", "commit"))
    if kind == "huggingface":
        uri = f"pkg:huggingface/{quote(location)}@{quote(commit, safe='')}"
        return {"name": "weights", "uri": uri, "digest": {"gitCommit": commit}}
    # For other sources the commit is a digest that Enginery makes of the files. Other tools cannot compare it.
    where: Plain = {"downloadLocation": location} if location else {}
    return {"name": "weights", "uri": f"urn:enginery:weights:{quote(commit, safe='')}", **where}


def _toolchain_materials(steps: Iterable[StepRecord]) -> list[Plain]:
    """The packages and images of the steps' toolchains, without repetitions, sorted by URI."""
    found = {str(material["uri"]): material for record in steps for material in _of_toolchain(record.toolchain)}
    return [found[uri] for uri in sorted(found)]


def _of_toolchain(toolchain: Mapping[str, str]) -> Iterator[Plain]:
    for name, version in toolchain.items():
        if name not in NOT_PACKAGES:
            kind = "generic" if name == "python" else "pypi"
            yield {"name": name, "uri": f"pkg:{kind}/{quote(name.lower(), safe='')}@{quote(version, safe='')}"}
    if image := toolchain.get("image"):
        algorithm, _, digest = toolchain.get("image-id", "").partition(":")
        named: Plain = {"name": image, "uri": f"pkg:docker/{quote(image, safe='/:')}"}
        yield named | ({"digest": {algorithm: digest}} if digest else {})


def _run(manifest: Manifest) -> Plain:
    reports = [file for file in manifest.files if file.path == REPORT_FILE]
    return {
        "builder": {"id": BUILDER, "version": {"enginery": manifest.enginery}},
        "metadata": {"invocationId": f"{manifest.model}/{manifest.build_id}", **_times(manifest.steps)},
        "byproducts": [
            *({**_file(file.path, file), "mediaType": "application/json"} for file in reports),
            *chain.from_iterable(_byproducts(record) for record in manifest.steps),
        ],
    }


def _times(steps: tuple[StepRecord, ...]) -> Plain:
    """The start of the first step and the end of the last one. Steps that an earlier run has done count too."""
    if not steps:
        return {}
    ended = (record.started + timedelta(seconds=record.seconds) for record in steps)
    return {"startedOn": _moment(min(record.started for record in steps)), "finishedOn": _moment(max(ended))}


def _moment(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _byproducts(record: StepRecord) -> Iterator[Plain]:
    """How a step ran, and its files; the weights and the model repository are listed elsewhere in the statement."""
    uri = f"urn:enginery:step:{record.key}"
    ran: Plain = {
        "host": record.host,
        "started": _moment(record.started),
        "seconds": record.seconds,
        "peakMemoryBytes": record.peak_memory_bytes,
        "enginery": record.enginery,
    }
    yield {"name": record.label, "uri": uri, "annotations": ran}
    if record.step.stage not in {Stage.DOWNLOAD, Stage.PACKAGE}:
        for file in record.files:
            yield {**_file(f"{record.label}/{file.path}", file), "annotations": {"step": uri}}


def _require_valid(statement: Plain, predicate: Plain, message: "Message", manifest: Manifest) -> None:
    """Check the statement with in-toto's own types, which reject unknown fields and wrong types."""
    try:
        statements.Statement.copy_from_pb(json_format.ParseDict(statement, statement_pb2.Statement())).validate()
        json_format.ParseDict(predicate, message)
    except (json_format.ParseError, ValueError) as error:
        name = str(statement["predicateType"]).partition("://")[2]
        problem = f"no valid statement ({name}) can be made from this manifest: {error}"
        subject = f"{manifest.model}/{manifest.build_id}"
        raise RegistryError(problem, subject=subject, remedy="package the build again") from error

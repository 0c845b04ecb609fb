# ruff: noqa: F811  fixtures that are imported
"""Tests of the provenance statement of a build."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from jsonschema import Draft202012Validator, FormatChecker
from pydantic import JsonValue

from enginery.builds.manifest import Manifest
from enginery.builds.provenance import BUILD_TYPE, PROVENANCE, provenance_statement
from enginery.cli.app import app
from enginery.core.errors import RegistryError
from enginery.registry import Registry, publish
from enginery.store.steps import Call, Command, FileRecord, Stage, StepRecord
from tests.builds.test_manifest import a_manifest
from tests.support.registry.builds import ANSWERS, QUESTION, Build
from tests.support.s3.fixtures import bucket, server  # noqa: F401
from tests.support.store.records import a_record

SCHEMA = json.loads((Path(__file__).parents[1] / "support" / "registry" / "slsa_provenance_v1.schema.json").read_text())
COMMIT = "c0ffee" * 6 + "c0ff"
DOCS = Path(__file__).parents[2] / "docs" / "provenance.md"


def statement(manifest: Manifest) -> dict[str, Any]:
    (line,) = provenance_statement(manifest).decode().splitlines()
    plain: dict[str, Any] = json.loads(line)
    return plain


def predicate(manifest: Manifest, *names: str) -> Any:
    found: Any = statement(manifest)["predicate"]
    for name in names:
        found = found[name]
    return found


def with_files(record: StepRecord, *paths: str) -> StepRecord:
    return record.model_copy(update={"files": tuple(FileRecord(path=path, sha256="a" * 64, size=1) for path in paths)})


def a_whole_manifest() -> Manifest:
    """A manifest with files at each step and with toolchains of every kind."""
    weights, engine, report, package = a_manifest().steps
    probed = {"python": "3.11", "torch": "2.9.1+cu130", "verdict": "engine", "gpu": "8 x H100", "driver": "550.54"}
    container = {"image": "nvcr.example/tensorrt-llm:1.2.1", "image-id": f"sha256:{'d' * 64}", "TensorRT_LLM": "1.2.1"}
    steps = (
        with_files(weights, "config.json", "model.safetensors"),
        with_files(engine, "rank0.engine").model_copy(update={"toolchain": probed}),
        with_files(report, "report.json").model_copy(update={"toolchain": container}),
        with_files(package, "ensemble/config.pbtxt"),
    )
    return a_manifest().model_copy(update={"steps": steps})


def from_source(**parameters: JsonValue) -> Manifest:
    download = a_record(Stage.DOWNLOAD, recipe=Call(function="download", version=1, parameters=parameters))
    return a_manifest().model_copy(update={"steps": (download, *a_manifest().steps[1:])})


def faults(plain: dict[str, Any]) -> list[str]:
    return [error.message for error in Draft202012Validator(SCHEMA, format_checker=FormatChecker()).iter_errors(plain)]


@pytest.mark.parametrize("manifest", [a_manifest(), a_whole_manifest(), from_source(kind="path", commit="ab" * 32)])
def test_a_statement_is_valid_under_the_published_schema(manifest: Manifest) -> None:
    assert faults(statement(manifest)) == []


@pytest.mark.parametrize(
    "path",
    [
        ("subject",),
        ("subject", 0, "digest"),
        ("predicate", "buildDefinition", "buildType"),
        ("predicate", "buildDefinition", "externalParameters"),
        ("predicate", "runDetails", "builder"),
        ("predicate", "runDetails", "builder", "id"),
        ("predicateType",),
    ],
)
def test_the_schema_notices_what_is_missing(path: tuple[str | int, ...]) -> None:
    plain = statement(a_whole_manifest())
    within: Any = plain
    for name in path[:-1]:
        within = within[name]
    del within[path[-1]]
    assert faults(plain)


def test_in_totos_own_types_read_it_and_give_it_back() -> None:
    plain = statement(a_whole_manifest())
    read = ParseDict(plain, statement_pb2.Statement())
    Statement.copy_from_pb(read).validate()
    assert MessageToDict(read) == plain
    inside = ParseDict(plain["predicate"], provenance_pb2.Provenance())
    assert MessageToDict(inside) == plain["predicate"]
    for descriptor in (*inside.build_definition.resolved_dependencies, *inside.run_details.byproducts):
        ResourceDescriptor.copy_from_pb(descriptor).validate()


def test_the_subjects_are_the_files_of_the_model_repository_with_their_digests() -> None:
    manifest = a_manifest("model_repository/a/config.pbtxt", "model_repository/a/1/model.py", "license/LICENSE")
    assert statement(manifest)["subject"] == [
        {"name": path, "digest": {"sha256": "0" * 64}}
        for path in ("model_repository/a/config.pbtxt", "model_repository/a/1/model.py")
    ]


def test_what_the_user_asked_for_is_external() -> None:
    parameters = predicate(a_manifest(), "buildDefinition", "externalParameters")
    assert parameters["model"] == "tiny-llama"
    assert parameters["source"] == {"kind": "huggingface", "location": "owner/tiny", "commit": COMMIT}
    assert (parameters["target"]["gpu"], parameters["target"]["precision"]) == ("cpu", "int4")
    assert parameters["validation"] == [{"prompt": QUESTION, "expected": {"contains": ANSWERS[QUESTION]}}]


def test_every_step_is_described_with_everything_in_its_key() -> None:
    manifest = a_manifest()
    steps = predicate(manifest, "buildDefinition", "internalParameters", "steps")
    assert [step["key"] for step in steps] == [record.key for record in manifest.steps]
    assert steps[1]["recipe"]["argv"] == ["python", "-m", "onnxruntime_genai.models.builder", "-p", "int4"]
    assert steps[1]["inputs"] == {"weights": steps[0]["key"]}


def test_the_weights_are_named_by_commit_and_each_file_by_digest() -> None:
    found = predicate(a_whole_manifest(), "buildDefinition", "resolvedDependencies")
    assert found[0] == {
        "name": "weights", "uri": f"pkg:huggingface/owner/tiny@{COMMIT}", "digest": {"gitCommit": COMMIT}
    }  # fmt: skip
    assert [(file["name"], file["digest"]) for file in found[1:3]] == [
        ("weights/config.json", {"sha256": "a" * 64}),
        ("weights/model.safetensors", {"sha256": "a" * 64}),
    ]


def test_weights_from_elsewhere_have_a_name_and_no_git_commit() -> None:
    source = predicate(
        from_source(kind="s3", location="s3://weights/tiny", commit="ab" * 32),
        "buildDefinition",
        "resolvedDependencies",
    )[0]
    expected = {"uri": f"urn:enginery:weights:{'ab' * 32}", "downloadLocation": "s3://weights/tiny"}
    assert source == {"name": "weights", **expected}
    local = predicate(from_source(kind="path", commit="ab" * 32), "buildDefinition", "resolvedDependencies")[0]
    assert local == {"name": "weights", "uri": f"urn:enginery:weights:{'ab' * 32}"}


def test_the_toolchains_packages_and_image_are_dependencies_and_what_the_machine_is_is_none() -> None:
    found = predicate(a_whole_manifest(), "buildDefinition", "resolvedDependencies")[3:]
    assert [one["uri"] for one in found] == [
        "pkg:docker/nvcr.example/tensorrt-llm:1.2.1",
        "pkg:generic/python@3.11",
        "pkg:pypi/tensorrt_llm@1.2.1",
        "pkg:pypi/torch@2.9.1%2Bcu130",
    ]
    assert found[0]["digest"] == {"sha256": "d" * 64}


def test_a_package_that_two_steps_use_is_reported_once() -> None:
    builder = a_record(Stage.BUILD, recipe=Command(argv=("build",)))
    checker = a_record(Stage.VALIDATE, recipe=Command(argv=("check",)))
    manifest = a_manifest().model_copy(update={"steps": (builder, checker)})
    names = [one["name"] for one in predicate(manifest, "buildDefinition", "resolvedDependencies")]
    assert names == ["onnxruntime-genai"]


def test_the_run_lasts_from_the_start_of_the_first_step_to_the_end_of_the_last() -> None:
    first, second, *rest = a_manifest().steps
    later = datetime(2026, 11, 22, 14, 0, 1, tzinfo=UTC)
    steps = (first, second.model_copy(update={"started": later, "seconds": 61.5}), *rest)
    metadata = predicate(a_manifest().model_copy(update={"steps": steps}), "runDetails", "metadata")
    assert metadata == {
        "invocationId": "tiny-llama/cpu-int4-0123456789ab",
        "startedOn": "2026-11-22T12:00:00Z",
        "finishedOn": "2026-11-22T14:01:02Z",
    }


def test_report_engine_and_steps_are_byproducts_but_not_outputs_that_are_described_elsewhere() -> None:
    found = predicate(a_whole_manifest(), "runDetails", "byproducts")
    assert [one["name"] for one in found] == [
        "report.json", "download cpu-int4", "build cpu-int4", "build cpu-int4/rank0.engine", "validate cpu-int4",
        "validate cpu-int4/report.json", "package cpu-int4",
    ]  # fmt: skip
    assert found[2]["annotations"]["host"] == "builder-1"
    assert found[2]["annotations"]["seconds"] == 4.25


def test_a_statement_is_the_same_whoever_publishes_the_build_when_and_where() -> None:
    manifest = a_whole_manifest()
    elsewhere = {"created": manifest.created + timedelta(days=3), "registry": "s3://other/place", "channel": "stable"}
    assert provenance_statement(manifest.model_copy(update=elsewhere)) == provenance_statement(manifest)


def test_a_statement_made_of_the_final_manifest_is_the_one_that_it_lists() -> None:
    manifest = a_whole_manifest()
    made = FileRecord(path=PROVENANCE, sha256="f" * 64, size=1)
    page = FileRecord(path="report.html", sha256="e" * 64, size=1)
    final = manifest.model_copy(update={"files": (*manifest.files, made, page)})
    assert provenance_statement(final) == provenance_statement(manifest)


def test_a_build_without_a_model_repository_has_no_sound_statement() -> None:
    with pytest.raises(RegistryError, match="no valid statement.*provenance.*At least one subject") as caught:
        provenance_statement(a_manifest("report.json"))
    assert caught.value.subject == "tiny-llama/cpu-int4-0123456789ab"


def test_the_page_that_the_build_type_stands_for_is_in_the_docs() -> None:
    text = DOCS.read_text()
    assert BUILD_TYPE in text
    parameters = predicate(a_manifest(), "buildDefinition", "externalParameters")
    assert not [name for name in parameters if f"`{name}`" not in text]


@pytest.fixture
def address(bucket: str) -> str:
    return f"s3://{bucket}/prod"


def test_every_published_build_has_its_statement_listed_with_its_digest(address: str, tmp_path: Path) -> None:
    context = Build().context(tmp_path, address)
    publish(context)
    registry = Registry(address)
    manifest = registry.manifest("tiny-llama", Build().build_id)
    published = registry.build_prefix("tiny-llama", Build().build_id).get_bytes(PROVENANCE)
    assert published == provenance_statement(manifest)
    assert PROVENANCE in {file.path for file in manifest.files}
    subjects = {subject["name"]: subject["digest"]["sha256"] for subject in statement(manifest)["subject"]}
    assert subjects == {file.path: file.sha256 for file in manifest.model_files}
    assert PROVENANCE in (context.output / "report.html").read_text()


def test_the_command_prints_what_was_published(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = Build().publish(address)
    app(["provenance", manifest.build_id, "--registry", address], standalone_mode=False)
    assert capsys.readouterr().out.encode() == provenance_statement(manifest)


def test_a_statement_that_was_changed_in_the_bucket_is_not_printed(address: str) -> None:
    manifest = Build().publish(address)
    prefix = Registry(address).build_prefix(manifest.model, manifest.build_id)
    prefix.put_bytes(PROVENANCE, provenance_statement(manifest).replace(b"cpu", b"gpu"))
    with pytest.raises(RegistryError, match="other bytes than the manifest says"):
        app(["provenance", manifest.build_id, "--registry", address], standalone_mode=False)
    prefix.delete(PROVENANCE)
    with pytest.raises(RegistryError, match="is not there"):
        app(["provenance", manifest.build_id, "--registry", address], standalone_mode=False)


def test_a_build_from_before_there_were_statements_gets_one_from_its_manifest(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = a_manifest()
    prefix = Registry(address).build_prefix(manifest.model, manifest.build_id)
    prefix.put_bytes("manifest.json", manifest.to_json())
    app(["provenance", manifest.build_id, "--registry", address], standalone_mode=False)
    assert capsys.readouterr().out.encode() == provenance_statement(manifest)

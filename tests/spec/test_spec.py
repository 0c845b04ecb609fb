"""Tests of specs: accepted values, refused values, and the messages."""

from pathlib import Path
from typing import Any

import pytest

from enginery.core.errors import SpecError
from enginery.spec.read import read_spec
from enginery.spec.spec import parse_spec
from enginery.spec.types import BackendName, Precision

SPEC = "name: bär\nsource: {huggingface: owner/tiny}\ntargets: [{name: cpu, gpu: cpu, precision: float32}]\n"
MODELS = Path(__file__).parents[2] / "infra" / "models"


def minimal(**changes: Any) -> dict[str, Any]:
    return {
        "name": "tiny",
        "source": {"huggingface": "owner/tiny"},
        "targets": [{"name": "cpu", "gpu": "cpu", "precision": "float32"}],
    } | changes


def mistakes(data: object) -> tuple[str, ...]:
    with pytest.raises(SpecError) as caught:
        parse_spec(data)
    return caught.value.mistakes


def test_a_minimal_spec_gets_its_defaults() -> None:
    spec = parse_spec(minimal())
    assert spec.source.revision == "main"
    assert spec.targets[0].backend is BackendName.AUTO
    assert spec.targets[0].tensor_parallel == 1
    assert spec.publish is None


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_spec_that_comes_with_enginery_reads(path: Path) -> None:
    assert read_spec(path).name == path.stem


def test_the_tutorials_spec_says_what_the_tutorial_does() -> None:
    spec = read_spec(MODELS / "llama-3-8b-instruct.yaml")
    target = spec.targets[0]
    assert (target.backend, target.release, target.precision) == ("tensorrt", "0.8.0", Precision.BFLOAT16)
    assert spec.build_for(target).gpt_attention_plugin == "bfloat16"
    assert spec.build_for(target).gemm_plugin == "bfloat16"
    assert spec.validation_for(target).prompts[0].prompt == "How do I count to nine in French?"
    assert spec.serving_for(target).max_batch_size == 64


def test_an_unknown_field_is_named_with_its_path_and_a_near_one() -> None:
    data = minimal(targets=[{"name": "cpu", "precision": "int4", "tensor_paralel": 2}])
    assert mistakes(data) == ("targets.0.tensor_paralel: unknown field; did you mean tensor_parallel?",)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("colour", "colour: unknown field"),
        ("validations", "validations: unknown field; did you mean validation?"),
        ("precison", "precison: unknown field; did you mean targets.precision?"),
        ("publish.chanel", "publish.chanel: unknown field; did you mean channel?"),
        ("publish.endpoints", "publish.endpoints: unknown field; did you mean rollout.endpoints?"),
        ("source.model", "source.model: unknown field"),
        ("build.paged_kv_cache", "build.paged_kv_cache: unknown field; use kv_cache_type: paged, or continuous"),
        ("build.tp_size", "build.tp_size: unknown field; use the target's tensor_parallel"),
        ("build.max_token", "build.max_token: unknown field; did you mean max_num_tokens?"),
    ],
)
def test_only_a_field_that_was_probably_meant_is_proposed(path: str, message: str) -> None:
    parent, _, field = path.rpartition(".")
    data = minimal(publish={"to": "s3://bucket/prefix"})
    (data.setdefault(parent, {}) if parent else data)[field] = "x"
    assert mistakes(data) == (message,)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"release": 9.9}, 'targets.0.release: YAML reads this as a number, not as text; quote it: release: "9.9"'),
        ({"name": 4}, 'targets.0.name: YAML reads this as a number, not as text; quote it: name: "4"'),
        ({"gpu": True}, "targets.0.gpu: YAML reads this as true, not as text; put it in quotes"),
        ({"gpu": None}, "targets.0.gpu: has no value; give one, or remove the field"),
        ({"gpu": ["cpu"]}, "targets.0.gpu: must be a text"),
    ],
)
def test_what_yaml_does_not_read_as_text_is_to_be_quoted(target: dict[str, Any], message: str) -> None:
    assert mistakes(minimal(targets=[{"name": "cpu", "gpu": "cpu", "precision": "int4"} | target])) == (message,)


def test_a_number_in_a_list_of_texts_is_to_be_quoted() -> None:
    (mistake,) = mistakes(minimal(source={"path": "x", "allow_pickle": [1]}))
    assert mistake == 'source.allow_pickle.0: YAML reads this as a number, not as text; quote it: "1"'


def test_a_field_that_takes_two_kinds_of_text_has_one_mistake() -> None:
    release = {"publish": {"to": "s3://bucket/x"}, "rollout": {"endpoints": ["http://t:8000"], "model_repository": 7}}
    (mistake,) = mistakes(minimal(**release))
    assert mistake.startswith("rollout.model_repository: YAML reads this as a number")


@pytest.mark.parametrize(
    ("changes", "path", "form"),
    [
        ({"publish": {"to": "bucket/prefix"}}, "publish.to: 'bucket/prefix' ", "s3://bucket/prefix"),
        ({"source": {"s3": "engines"}}, "source.s3: 'engines' ", "s3://bucket/prefix"),
        ({"source": {"huggingface": "https://hub/a/b"}}, "source.huggingface: 'https://hub/a/b' ", "owner/name"),
        ({"source": {"path": "x", "sha256": {"a.bin": "12"}}}, "source.sha256.a.bin: '12' ", "64 hex digits"),
        (
            {"publish": {"to": "s3://bucket/x"}, "rollout": {"endpoints": ["triton:8000/v2"]}},
            "rollout.endpoints.0: 'triton:8000/v2' ",
            "http://host:port, without path or credentials",
        ),
    ],
)
def test_the_form_of_a_text_is_described_in_words(changes: dict[str, Any], path: str, form: str) -> None:
    (mistake,) = mistakes(minimal(**changes))
    assert mistake.startswith(path)
    assert form in mistake
    assert "pattern" not in mistake


def test_an_unknown_gpu_comes_with_the_other_mistakes() -> None:
    found = mistakes(minimal(name="Not A Name", targets=[{"name": "a", "gpu": "H100-SMX5-80GB", "precision": "int3"}]))
    assert [mistake.split(":")[0] for mistake in found] == ["name", "targets.0.gpu", "targets.0.precision"]
    assert found[1].startswith("targets.0.gpu: unknown GPU 'H100-SMX5-80GB'; use one that is known, such as H100-SXM5")


@pytest.mark.parametrize("data", [{1: 2}, minimal() | {1: 2}, minimal(targets={0: 1}), minimal(targets=["cpu"])])
def test_odd_keys_and_kinds_are_mistakes_too(data: dict[Any, Any]) -> None:
    assert mistakes(data)


def test_a_wrong_type_names_the_field_and_what_was_given() -> None:
    (mistake,) = mistakes(minimal(validation={"max_tokens": "many"}))
    assert mistake.startswith("validation.max_tokens: ")
    assert "'many'" in mistake


def test_several_mistakes_are_all_reported_at_once() -> None:
    found = mistakes(
        {
            "name": "Not A Name",
            "source": {"huggingface": "a/b", "s3": "s3://bucket/prefix"},
            "targets": [{"name": "a", "precision": "float33"}, {"precision": "int4"}],
            "publish": {"to": "https://elsewhere"},
        }
    )
    paths = {mistake.split(":")[0] for mistake in found}
    assert paths == {"name", "source", "targets.0.precision", "targets.1.name", "publish.to"}


def test_a_mistake_inside_a_target_is_not_also_reported_as_too_few_targets() -> None:
    found = mistakes(minimal(targets=[{"name": "cpu", "precision": "nonsense"}]))
    assert len(found) == 1


def test_no_targets_is_a_mistake() -> None:
    (mistake,) = mistakes(minimal(targets=[]))
    assert mistake.startswith("targets: ")


@pytest.mark.parametrize("address", ["s3://b01/a//b", "s3://b01/../x", "s3://b01/./x", "s3://B01/x", "s3://b01/a\tb"])
def test_an_address_that_s3_cannot_use_is_a_mistake_of_its_field(address: str) -> None:
    release = {"publish": {"to": address}, "rollout": {"endpoints": ["http://t:8000"], "model_repository": address}}
    found = mistakes(minimal(**release))
    assert [one.split(":")[0] for one in found] == ["publish.to", "rollout.model_repository"]
    assert all(repr(address) in one and "; write" in one for one in found)


@pytest.mark.parametrize("place", ["s3:/b01/x", "S3://b01/x", " s3://b01/x", "s3:b01", "gs://b01/x", "http://b01/x"])
def test_a_misspelled_address_is_not_taken_for_a_directory(place: str) -> None:
    release = {"publish": {"to": "s3://b01/x"}, "rollout": {"endpoints": ["http://t:8000"], "model_repository": place}}
    (mistake,) = mistakes(minimal(**release))
    assert mistake.startswith(f"rollout.model_repository: {place!r} is not an address in S3; write it as s3://")


def test_the_source_may_be_a_prefix_with_empty_parts_but_not_with_dots() -> None:
    assert parse_spec(minimal(source={"s3": "s3://b01/a//b"})).source.s3 == "s3://b01/a//b"
    (mistake,) = mistakes(minimal(source={"s3": "s3://b01/a/../b"}))
    assert mistake.startswith("source.s3: 's3://b01/a/../b' has the part '..'")


@pytest.mark.parametrize("prefix", ["with space", "ü+plus%2Fpct", "x?y#z"])
def test_odd_but_possible_prefixes_are_accepted(prefix: str) -> None:
    spec = parse_spec(minimal(publish={"to": f"s3://b01/{prefix}"}))
    assert spec.publish
    assert spec.publish.to == f"s3://b01/{prefix}"


@pytest.mark.parametrize("source", [{}, {"path": "x", "s3": "s3://bucket/x"}])
def test_a_source_has_exactly_one_origin(source: dict[str, str]) -> None:
    (mistake,) = mistakes(minimal(source=source))
    assert "exactly one of huggingface, path, s3" in mistake


def test_targets_have_different_names() -> None:
    target = {"name": "cpu", "precision": "int4"}
    (mistake,) = mistakes(minimal(targets=[target, target]))
    assert "twice: cpu" in mistake


def test_a_pattern_that_is_no_regular_expression_is_a_mistake() -> None:
    (mistake,) = mistakes(minimal(validation={"prompts": [{"prompt": "Hi", "matches": "("}]}))
    assert mistake.startswith("validation.prompts.0: matches is not a regular expression")


def test_a_rollout_needs_a_target_when_there_are_several() -> None:
    targets = [{"name": name, "precision": "int4"} for name in ("a", "b")]
    release = {"publish": {"to": "s3://bucket/prefix"}, "rollout": {"endpoints": ["http://triton:8000"]}}
    (mistake,) = mistakes(minimal(targets=targets, **release))
    assert "rollout.target is needed with several targets: one of a, b" in mistake


def test_a_rollout_of_an_unknown_target_is_a_mistake() -> None:
    release = {
        "publish": {"to": "s3://bucket/prefix"},
        "rollout": {"endpoints": ["http://triton:8000"], "target": "gpu"},
    }
    (mistake,) = mistakes(minimal(**release))
    assert "'gpu' is not one of cpu" in mistake


def test_a_rollout_without_publish_is_a_mistake() -> None:
    (mistake,) = mistakes(minimal(rollout={"endpoints": ["http://triton:8000"]}))
    assert "rollout needs publish" in mistake


def test_a_target_overrides_field_by_field() -> None:
    target = {"name": "cpu", "precision": "int4", "validation": {"max_tokens": 7}}
    spec = parse_spec(minimal(targets=[target], validation={"max_tokens": 9, "prompts": [{"prompt": "Hi"}]}))
    merged = spec.validation_for(spec.targets[0])
    assert merged.max_tokens == 7
    assert merged.prompts[0].prompt == "Hi"


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_what_is_not_a_mapping_is_one_clear_mistake(data: object) -> None:
    assert len(mistakes(data)) == 1


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_relative_path_is_taken_from_the_spec_file(tmp_path: Path) -> None:
    text = "name: tiny\nsource: {path: model}\ntargets: [{name: cpu, precision: int4}]\n"
    spec = read_spec(written(tmp_path / "spec.yaml", text))
    assert spec.source.path == str(tmp_path / "model")


def test_no_reference_is_written_without_quotes(tmp_path: Path) -> None:
    text = (
        "name: tiny\nsource: {path: model}\nvalidation: {reference: {use: off}}\n"
        "targets: [{name: cpu, precision: int4}]\n"
    )
    assert read_spec(written(tmp_path / "spec.yaml", text)).validation.reference.use == "off"


def test_the_texts_of_a_reference_are_taken_from_the_spec_file(tmp_path: Path) -> None:
    text = (
        "name: tiny\nsource: {path: model}\nvalidation: {reference: {texts: texts}}\n"
        "targets: [{name: cpu, precision: int4, validation: {reference: {texts: ../other.txt}}}]\n"
    )
    spec = read_spec(written(tmp_path / "spec.yaml", text))
    assert spec.validation.reference.texts == str(tmp_path / "texts")
    assert spec.validation_for(spec.targets[0]).reference.texts == str(tmp_path.parent / "other.txt")


def test_an_override_replaces_a_value_deep_inside(tmp_path: Path) -> None:
    text = "name: tiny\nsource: {path: model}\ntargets: [{name: cpu, precision: int4}]\n"
    path = written(tmp_path / "spec.yaml", text)
    spec = read_spec(path, ("targets.0.precision=float32", "publish.to=s3://bucket/there", "validation.max_tokens=3"))
    assert spec.targets[0].precision == "float32"
    assert spec.publish is not None
    assert spec.publish.to == "s3://bucket/there"
    assert spec.validation.max_tokens == 3


@pytest.mark.parametrize(
    "override", ["no-equals", "=x", "targets.x.precision=int4", "name.first=x", "targets.7.name=x"]
)
def test_an_override_that_does_not_fit_is_refused(tmp_path: Path, override: str) -> None:
    text = "name: tiny\nsource: {path: model}\ntargets: [{name: cpu, precision: int4}]\n"
    path = written(tmp_path / "spec.yaml", text)
    with pytest.raises(SpecError, match="--set"):
        read_spec(path, (override,))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="nowhere.yaml"):
        read_spec(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("text", ["a: [", "\x00", "- 1\n- 2\n"])
def test_a_file_that_is_no_yaml_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SpecError, match="spec.yaml"):
        read_spec(written(tmp_path / "spec.yaml", text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: tiny\nsource: [\n", "is not YAML: line 3, column 1: "),
        ("name: tiny\n source: x\n", "is not YAML: line 2, column 8: mapping values are not allowed"),
        ("name: tiny\né: \x00\n", "is not YAML: line 2, column 4: the character U+0000 is not allowed"),
        ("name: tiny\nname: other\n", "is not YAML: line 2, column 1: the field 'name' is given twice; keep one"),
        ("a: [{b: 1, c: 2, b: 3}]\n", "is not YAML: line 1, column 18: the field 'b' is given twice"),
        ("name: 2024-13-01\n", "is not YAML: month must be in 1..12"),
    ],
)
def test_a_mistake_in_yaml_is_reported_with_its_place_and_file(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path / "spec.yaml", text)
    with pytest.raises(SpecError) as caught:
        read_spec(path)
    assert caught.value.subject == str(path)
    assert caught.value.mistakes[0].startswith(message)
    assert "unicode string" not in str(caught.value)


def test_an_override_that_is_no_yaml_is_reported_with_its_place(tmp_path: Path) -> None:
    path = written(tmp_path / "spec.yaml", "name: tiny\n")
    with pytest.raises(SpecError, match="'name=.' is not YAML: line 1, column 2: ") as caught:
        read_spec(path, ("name=[",))
    assert "unicode string" not in str(caught.value)


def test_a_spec_survives_being_sent_as_json() -> None:
    spec = parse_spec(minimal(build={"int4_block_size": 64}))
    again = type(spec).model_validate_json(spec.model_dump_json())
    assert again == spec


def test_a_password_in_an_endpoint_is_refused() -> None:
    endpoint = "http://bob:hidden-word@triton:8000"
    (mistake,) = mistakes(minimal(publish={"to": "s3://bucket/prefix"}, rollout={"endpoints": [endpoint]}))
    assert mistake.startswith("rollout.endpoints.0: ")
    assert "hidden-word" not in mistake
    assert "'http://***@triton:8000'" in mistake


@pytest.mark.parametrize("image", ["-v/:/host", "two words:1", "name@sha256:short", ""])
def test_what_docker_would_not_take_for_an_image_is_a_mistake(image: str) -> None:
    target = {"name": "a", "gpu": "H100-SXM5-80GB", "precision": "bfloat16", "toolchain": "container", "image": image}
    (mistake,) = mistakes(minimal(targets=[target]))
    assert mistake.startswith(f"targets.0.image: {image!r} is not the name of an image")


@pytest.mark.parametrize("image", ["trtllm:1", "host.example:5000/team/trtllm:1", f"a/b@sha256:{'0' * 64}"])
def test_images_are_named_as_docker_names_them(image: str) -> None:
    target = {"name": "a", "gpu": "H100-SXM5-80GB", "precision": "bfloat16", "toolchain": "container", "image": image}
    assert parse_spec(minimal(targets=[target])).targets[0].image == image


@pytest.mark.parametrize("code", ["E103", "w201", "", "W20"])
def test_only_codes_of_warnings_can_be_accepted(code: str) -> None:
    (mistake,) = mistakes(minimal(force=[code]))
    assert mistake == f"force.0: {code!r} is not the code of a warning, such as W201; errors cannot be accepted"


def test_the_error_for_one_value_instead_of_a_list_says_how_to_write_it() -> None:
    assert mistakes(minimal(force="W201")) == ("force: must be a list, such as [W201] (given 'W201')",)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1"])
def test_a_file_in_another_encoding_is_refused_with_what_to_do(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "spec.yaml").write_bytes(SPEC.encode(encoding))
    with pytest.raises(SpecError, match="is not UTF-8; save the file as UTF-8"):
        read_spec(tmp_path / "spec.yaml")


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_bytes(SPEC.replace("bär", "tiny").encode("utf-8-sig"))
    assert read_spec(tmp_path / "spec.yaml").name == "tiny"


def test_parts_that_are_merged_in_may_have_the_same_keys(tmp_path: Path) -> None:
    text = (
        "name: tiny\nsource: {huggingface: owner/tiny}\ntargets:\n"
        "  - &one {name: a, gpu: cpu, precision: float32}\n  - &two {<<: *one, name: b}\n  - {<<: *two, name: c}\n"
    )
    (tmp_path / "spec.yaml").write_text(text)
    assert [target.name for target in read_spec(tmp_path / "spec.yaml").targets] == ["a", "b", "c"]

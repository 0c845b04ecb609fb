"""Tests of which files of a model are used, and which problems are found in them."""

from pathlib import Path

import pytest

from enginery.backends.pytorch.quantize import quantized_to
from enginery.core.errors import SourceError
from enginery.models import WeightsFault
from enginery.models.facts import ModelFacts
from enginery.sources import resolve
from enginery.sources.model_files import (
    Selection,
    is_lfs_pointer,
    raise_findings,
    select,
)
from enginery.spec.spec import Source
from enginery.spec.types import Precision
from tests.support.models.directories import model_directory, safetensors, sharded_model_directory, write

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 128,
}


def selected(directory: Path, **options: object) -> Selection:
    source = Source.model_validate({"path": str(directory), **options})
    names = [path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()]
    return select(names, source, lambda name: (directory / name).read_bytes())


def problems(directory: Path, **options: object) -> list[str]:
    return [str(finding) for finding in selected(directory, **options).findings]


def test_only_what_a_build_needs_is_chosen(tmp_path: Path) -> None:
    selection = selected(model_directory(tmp_path))
    assert selection.findings == []
    assert sorted(selection.names) == [
        "LICENSE", "USE_POLICY.md", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["model.gguf", "training_args.pt", "consolidated.safetensors", "flax_model.msgpack", "events.log", "run.sh"]
)
def test_the_same_weights_in_other_formats_are_left_out(tmp_path: Path, name: str) -> None:
    write(model_directory(tmp_path), {name: b"other"})
    assert name not in selected(tmp_path).names


@pytest.mark.parametrize(
    "name",
    [
        "chat_template.jinja",
        "special_tokens_map.json",
        "hf_quant_config.json",
        "NOTICE",
        "LICENCE.txt",
        "use_policy.md",
    ],
)
def test_what_belongs_to_a_model_is_kept(tmp_path: Path, name: str) -> None:
    write(model_directory(tmp_path), {name: "{}"})
    assert name in selected(tmp_path).names


def test_all_parts_of_sharded_weights_are_chosen_with_their_index(tmp_path: Path) -> None:
    selection = selected(sharded_model_directory(tmp_path, shards=2))
    assert selection.findings == []
    assert {name for name in selection.names if "model-" in name or "index" in name} == {
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
    }  # fmt: skip


def test_a_single_file_is_preferred_to_an_index_as_the_libraries_do(tmp_path: Path) -> None:
    write(sharded_model_directory(tmp_path), {"model.safetensors": safetensors()})
    assert [name for name in selected(tmp_path).names if "safetensors" in name] == ["model.safetensors"]


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_missing_part_is_named(tmp_path: Path, missing: str) -> None:
    (model_directory(tmp_path) / missing).unlink()
    (tmp_path / "pytorch_model.bin").unlink()
    assert len(problems(tmp_path)) == 1
    assert missing in problems(tmp_path)[0]


def test_a_model_without_tokenizer_is_one_clear_problem(tmp_path: Path) -> None:
    (model_directory(tmp_path) / "tokenizer.json").unlink()
    assert len(problems(tmp_path)) == 1
    assert "there is no tokenizer" in problems(tmp_path)[0]


@pytest.mark.parametrize("files", [("tokenizer.model",), ("vocab.json", "merges.txt"), ("tekken.json",)])
def test_any_kind_of_tokenizer_will_do(tmp_path: Path, files: tuple[str, ...]) -> None:
    (model_directory(tmp_path) / "tokenizer.json").unlink()
    write(tmp_path, dict.fromkeys(files, b"x"))
    selection = selected(tmp_path)
    assert selection.findings == []
    assert selection.names >= set(files)


def test_a_vocabulary_without_merges_is_no_tokenizer(tmp_path: Path) -> None:
    (model_directory(tmp_path) / "tokenizer.json").unlink()
    write(tmp_path, {"vocab.json": {}})
    assert "there is no tokenizer" in problems(tmp_path)[0]


def only_pickles(directory: Path) -> Path:
    (model_directory(directory) / "model.safetensors").unlink()
    return directory


def test_pickled_weights_are_refused_and_the_way_to_allow_them_is_shown(tmp_path: Path) -> None:
    (problem,) = problems(only_pickles(tmp_path))
    assert "only pickles (pytorch_model.bin)" in problem
    assert "source.allow_pickle: [pytorch_model.bin]" in problem


def test_a_pickle_allowed_by_name_is_chosen(tmp_path: Path) -> None:
    selection = selected(only_pickles(tmp_path), allow_pickle=["pytorch_model.bin"])
    assert selection.findings == []
    assert "pytorch_model.bin" in selection.names


def test_allowing_one_pickle_allows_no_other(tmp_path: Path) -> None:
    write(only_pickles(tmp_path), {"other.bin": b"x"})
    assert "pytorch_model.bin" not in selected(tmp_path, allow_pickle=["other.bin"]).names


def test_pickled_parts_must_all_be_allowed(tmp_path: Path) -> None:
    (only_pickles(tmp_path) / "pytorch_model.bin").unlink()
    parts = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    index = {"weight_map": {"a": parts[0], "b": parts[1]}}
    write(tmp_path, {parts[0]: b"x", parts[1]: b"x", "pytorch_model.bin.index.json": index})
    assert parts[1] in problems(tmp_path, allow_pickle=parts[:1])[0]
    selection = selected(tmp_path, allow_pickle=parts)
    assert selection.findings == []
    assert selection.names >= {*parts, "pytorch_model.bin.index.json"}


def test_allowing_a_pickle_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    assert "model.pth" in problems(model_directory(tmp_path), allow_pickle=["model.pth"])[0]


def test_safetensors_are_used_although_pickles_are_allowed(tmp_path: Path) -> None:
    selection = selected(model_directory(tmp_path), allow_pickle=["pytorch_model.bin"])
    assert "model.safetensors" in selection.names
    assert "pytorch_model.bin" not in selection.names


def test_what_was_found_instead_of_weights_is_said(tmp_path: Path) -> None:
    (only_pickles(tmp_path) / "pytorch_model.bin").unlink()
    write(tmp_path, {"model.Q4.gguf": b"x"})
    assert "found only model.Q4.gguf" in problems(tmp_path)[0]


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_remote_code_is_refused(tmp_path: Path, name: str) -> None:
    write(model_directory(tmp_path), {name: {"auto_map": {"AutoModel": "modeling_evil.Evil"}}})
    (problem,) = problems(tmp_path)
    assert name in problem
    assert "auto_map" in problem


def test_code_that_belongs_to_the_model_is_refused_by_name(tmp_path: Path) -> None:
    write(model_directory(tmp_path), {"modeling_evil.py": "evil()"})
    assert "modeling_evil.py" in problems(tmp_path)[0]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (sharded_model_directory(tmp_path) / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors" in problems(tmp_path)[0]


def test_a_shard_the_index_does_not_know_is_named(tmp_path: Path) -> None:
    write(sharded_model_directory(tmp_path), {"model-00004-of-00004.safetensors": safetensors()})
    assert "does not name these parts: model-00004-of-00004.safetensors" in problems(tmp_path)[0]


def test_shards_without_an_index_are_incomplete(tmp_path: Path) -> None:
    (sharded_model_directory(tmp_path) / "model.safetensors.index.json").unlink()
    assert "3 parts of the weights but no model.safetensors.index.json" in problems(tmp_path)[0]


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": ["a"]}])
def test_an_index_that_names_nothing_is_refused(tmp_path: Path, index: dict[str, object]) -> None:
    write(sharded_model_directory(tmp_path), {"model.safetensors.index.json": index})
    assert "weight_map" in problems(tmp_path)[0]


def test_an_index_cannot_reach_outside_the_model(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "../secret.safetensors"}}
    write(sharded_model_directory(tmp_path / "m"), {"model.safetensors.index.json": index})
    write(tmp_path, {"secret.safetensors": safetensors()})
    selection = selected(tmp_path / "m")
    assert "../secret.safetensors" not in selection.names
    assert "names files that are not there: ../secret.safetensors" in str(selection.findings[0])


@pytest.mark.parametrize(
    ("content", "message"), [("{", "not JSON"), ("[]", "not a JSON object"), (b"\xff", "not JSON")]
)
def test_a_config_that_cannot_be_read_is_refused(tmp_path: Path, content: object, message: str) -> None:
    write(model_directory(tmp_path), {"config.json": content})
    assert message in problems(tmp_path)[0]


MODELOPTS: dict[str, dict[str, object]] = {
    "producer": {"name": "modelopt", "version": "0.47.0"},
    "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]},
}


def test_what_only_modelopts_own_file_says_of_the_quantization_is_in_the_configuration(tmp_path: Path) -> None:
    selection = selected(write(model_directory(tmp_path), {"hf_quant_config.json": MODELOPTS}))
    assert selection.findings == []
    assert selection.config["model_type"] == "llama"
    assert selection.config["quantization_config"] == {"quant_method": "modelopt", **MODELOPTS["quantization"]}
    facts = ModelFacts.from_config({**CONFIG, "quantization_config": selection.config["quantization_config"]})
    assert facts.quantization is not None
    assert quantized_to(facts.quantization) is Precision.FP8


def test_what_the_configuration_itself_says_of_the_quantization_counts(tmp_path: Path) -> None:
    own = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    files = {"config.json": {"quantization_config": own}, "hf_quant_config.json": MODELOPTS}
    assert selected(write(model_directory(tmp_path), files)).config == {"quantization_config": own}


@pytest.mark.parametrize("content", [{}, {"quantization": None}, {"quantization": {"quant_algo": None}}])
def test_a_file_that_says_nothing_of_the_quantization_changes_nothing(tmp_path: Path, content: object) -> None:
    selection = selected(write(model_directory(tmp_path), {"hf_quant_config.json": content}))
    assert "quantization_config" not in selection.config


def test_a_quantization_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert problems(write(model_directory(tmp_path), {"hf_quant_config.json": "{"}))[0].startswith(
        "hf_quant_config.json is not JSON"
    )


def test_expected_digests_must_name_files_that_are_used(tmp_path: Path) -> None:
    found = problems(model_directory(tmp_path), sha256={"model.safetensor": "0" * 64, "README.md": "0" * 64})
    assert any("README.md, which the build does not use" in problem for problem in found)
    assert any("model.safetensor, which is not there (did you mean model.safetensors?)" in problem for problem in found)


def test_everything_wrong_is_reported_at_once(tmp_path: Path) -> None:
    write(tmp_path, {"config.json": {"auto_map": {"AutoModel": "x.Y"}}, "pytorch_model.bin": b"pickle"})
    with pytest.raises(SourceError, match="4 things are wrong") as caught:
        resolve(Source(path=str(tmp_path), sha256={"nowhere": "0" * 64}))
    for problem in ("no tokenizer", "auto_map", "only pickles", "nowhere"):
        assert problem in caught.value.problem
    assert not caught.value.transient


def test_one_problem_has_its_remedy_apart() -> None:
    with pytest.raises(SourceError) as caught:
        raise_findings([WeightsFault("it is bad", "make it good")], "model")
    assert (caught.value.problem, caught.value.remedy, caught.value.subject) == ("it is bad", "make it good", "model")
    raise_findings([], "model")


def test_a_pointer_of_git_lfs_is_recognized(tmp_path: Path) -> None:
    write(tmp_path, {"pointer": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "file": b"x"})
    assert is_lfs_pointer(tmp_path / "pointer")
    assert not is_lfs_pointer(tmp_path / "file")

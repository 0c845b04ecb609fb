"""Tests of what is said of a repository that is no model: one message that names what it is and what to use."""

from pathlib import Path
from typing import Any

import pytest

from enginery.core.errors import SourceError
from enginery.sources import resolve
from enginery.spec.spec import Source
from tests.support.models.directories import model_directory, write

LORA = {"peft_type": "LORA", "base_model_name_or_path": "some-team/base-7b", "r": 16}
TOKENIZER: dict[str, Any] = {"tokenizer.json": {}, "tokenizer_config.json": {}}
CONFIG = {"config.json": {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}}

KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "LoRA": ({"adapter_config.json": LORA, "adapter_model.safetensors": b"x", **TOKENIZER}, "a LoRA adapter"),
    "LoRA with the base's configuration": (
        {"adapter_config.json": LORA, "adapter_model.bin": b"x", **TOKENIZER, **CONFIG},
        "a LoRA adapter for some-team/base-7b",
    ),
    "another adapter": (
        {"adapter_config.json": {"peft_type": "PROMPT_TUNING"}, "adapter_model.safetensors": b"x"},
        "a PROMPT_TUNING adapter",
    ),
    "LoRA of checkpoints": ({"checkpoint-5/adapter_model.safetensors": b"x"}, "a LoRA adapter"),
    "LoRA for images": ({"pytorch_lora_weights.safetensors": b"x"}, "diffusers"),
    "GGUF": ({"model.Q4_K_M.gguf": b"GGUF", "README.md": "x"}, "GGUF"),
    "GGUF with a configuration": ({"q/model-00001-of-00002.gguf": b"GGUF", **CONFIG, **TOKENIZER}, "GGUF"),
    "old GGML": ({"ggml-model-q4_0.bin": b"x", **CONFIG}, "GGUF"),
    "diffusers": (
        {"model_index.json": {"_class_name": "X"}, "unet/config.json": {}, "text_encoder/model.safetensors": b"x"},
        "diffusers",
    ),
    "a part of a pipeline": ({"config.json": {"_class_name": "UNet"}, "other.safetensors": b"x"}, "diffusers"),
    "original checkpoint": ({"consolidated.00.pth": b"x", "params.json": {}, "tokenizer.model": b"x"}, "original"),
    "original beside a configuration": ({"original/consolidated.00.pth": b"x", **CONFIG, **TOKENIZER}, "original"),
    "Mistral's own format": ({"consolidated.safetensors": b"x", "params.json": {}, "tekken.json": {}}, "original"),
    "ONNX": ({"onnx/model_q4.onnx": b"x", **CONFIG, **TOKENIZER}, "ONNX"),
    "ONNX Runtime GenAI": ({"genai_config.json": {}, "model.onnx.data": b"x", **TOKENIZER}, "ONNX"),
    "TensorFlow": ({"tf_model.h5": b"x", **CONFIG, **TOKENIZER}, "TensorFlow"),
    "Keras": ({"model.weights.h5": b"x", "metadata.json": {}}, "TensorFlow"),
    "Flax": ({"flax_model.msgpack": b"x", **CONFIG, **TOKENIZER}, "Flax"),
    "sentence-transformers": ({"modules.json": "[]", "0_Transformer/config.json": {}}, "sentence-transformers"),
    "MLX": ({"weights.npz": b"x", **CONFIG, **TOKENIZER}, "MLX"),
    "Core ML": ({"model.mlpackage/Manifest.json": {}, **CONFIG}, "Core ML"),
    "OpenVINO": ({"openvino_model.xml": "x", "openvino_model.bin": b"x", **CONFIG, **TOKENIZER}, "OpenVINO"),
    "CTranslate2": ({"model.bin": b"x", "shared_vocabulary.json": "[]", **CONFIG}, "CTranslate2"),
    "MLC": ({"mlc-chat-config.json": {}, "params_shard_0.bin": b"x", **TOKENIZER}, "MLC"),
    "a phone's format": ({"gemma.task": b"x"}, "mobile"),
    "NeMo": ({"llama.nemo": b"x"}, "NeMo"),
    "NeMo 2": ({"context/model.yaml": "x", "weights/metadata.json": {}}, "NeMo"),
    "a TensorRT-LLM checkpoint": ({"config.json": {"architecture": "L"}, "rank0.safetensors": b"x"}, "TensorRT-LLM"),
    "a TensorRT-LLM engine": ({"config.json": {"pretrained_config": {}}, "rank0.engine": b"x"}, "TensorRT-LLM"),
    "a training run of DeepSpeed": ({"global_step10/mp_rank_00_model_states.pt": b"x", **CONFIG}, "training"),
    "a distributed checkpoint": ({"__0_0.distcp": b"x", ".metadata": b"x"}, "training"),
    "a model in a subdirectory": (
        {"checkpoint-500/config.json": {}, "checkpoint-500/model.safetensors": b"x", "trainer_state.json": {}},
        "the subdirectory checkpoint-500",
    ),
    "the Hub's cache": ({"refs/main": "abc", "blobs/123": b"x", "snapshots/abc/config.json": {}}, "Hub's own cache"),
    "data": ({"data/train-00000-of-00001.parquet": b"x", "README.md": "x"}, "a data set"),
    "a tokenizer": (TOKENIZER, "only a tokenizer"),
}


def problem_of(directory: Path, **options: object) -> SourceError:
    with pytest.raises(SourceError) as caught:
        resolve(Source.model_validate({"path": str(directory), **options}))
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_one_message_names_what_it_is_and_what_to_use(tmp_path: Path, kind: str) -> None:
    files, words = KINDS[kind]
    error = problem_of(write(tmp_path, files))
    assert words in error.problem
    assert "things are wrong" not in error.problem
    assert error.remedy


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"sentence-transformers"}))
def test_a_whole_model_beside_it_is_accepted(tmp_path: Path, kind: str) -> None:
    files, _ = KINDS[kind]
    write(tmp_path, {name: content for name, content in files.items() if "/" in name or name != "config.json"})
    assert resolve(Source(path=str(model_directory(tmp_path)))).weight_bytes > 0


def test_an_adapter_names_the_model_to_merge_it_into(tmp_path: Path) -> None:
    error = problem_of(write(tmp_path, KINDS["LoRA"][0]))
    assert "for some-team/base-7b" in error.problem
    assert "merge it into some-team/base-7b first" in error.remedy


@pytest.mark.parametrize("base", [None, "", 7])
def test_an_adapter_without_a_base_is_still_recognized(tmp_path: Path, base: object) -> None:
    error = problem_of(write(tmp_path, {"adapter_config.json": {**LORA, "base_model_name_or_path": base}}))
    assert "merge it into its base model first" in error.remedy


def test_embeddings_are_refused_although_their_weights_are_those_of_a_language_model(tmp_path: Path) -> None:
    modules = [{"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"}]
    error = problem_of(write(model_directory(tmp_path), {"modules.json": modules}))
    assert "embeddings" in error.problem


def test_another_file_of_the_same_name_is_no_sign(tmp_path: Path) -> None:
    assert resolve(Source(path=str(write(model_directory(tmp_path), {"modules.json": {"a": 1}}))))


def test_many_files_are_counted_and_not_listed(tmp_path: Path) -> None:
    error = problem_of(write(tmp_path, {f"model-{number}.gguf": b"x" for number in range(9)}))
    assert "model-0.gguf, model-1.gguf, model-2.gguf, model-3.gguf and 5 more" in error.problem


def test_what_a_training_run_leaves_is_no_pickle_of_weights(tmp_path: Path) -> None:
    directory = write(tmp_path, {**CONFIG, **TOKENIZER, "training_args.bin": b"x", "optimizer.pt": b"x"})
    error = problem_of(directory)
    assert "there are no weights" in error.problem
    assert "pickle" not in error.problem


def test_a_directory_of_something_else_still_says_what_is_missing(tmp_path: Path) -> None:
    error = problem_of(write(tmp_path, {"main.c": "int main;"}))
    for missing in ("no config.json", "no tokenizer", "no weights"):
        assert missing in error.problem

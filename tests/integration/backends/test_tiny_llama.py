"""The example model: complete and small as committed, and made again by its script."""

import json
from pathlib import Path

import pytest
import yaml

from enginery.core import process
from enginery.core.errors import CommandError
from enginery.spec.spec import ValidationOptions

EXAMPLE = Path(__file__).parents[3] / "examples" / "tiny-llama"
MODEL = EXAMPLE / "model"
PROMPTS = EXAMPLE / "prompts.yaml"
FILES = {
    "LICENSE",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
TUTORIAL = "How do I count to nine in French?"
FEW = 4


def validation() -> ValidationOptions:
    return ValidationOptions.model_validate(yaml.safe_load(PROMPTS.read_text(encoding="utf-8")))


def train(python: Path, output: Path, *arguments: str) -> process.Completed:
    return process.run([str(python), str(EXAMPLE / "train.py"), "--output", str(output), *arguments])


def test_the_committed_model_is_complete_and_under_2_mb() -> None:
    files = [path for path in MODEL.rglob("*") if path.is_file()]
    assert {path.relative_to(MODEL).as_posix() for path in files} == FILES
    assert sum(path.stat().st_size for path in files) < 2_000_000


def test_the_configuration_names_the_rope_base_for_old_and_new_readers() -> None:
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 500000.0
    assert config["torch_dtype"] == config["dtype"] == "float32"
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["tie_word_embeddings"] is False
    assert config["max_position_embeddings"] == 256


def test_the_special_tokens_of_configuration_and_tokenizer_agree() -> None:
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    names = json.loads((MODEL / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((MODEL / "tokenizer.json").read_text(encoding="utf-8"))
    ids = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    for kind in ("bos", "eos", "pad"):
        assert ids[names[f"{kind}_token"]] == config[f"{kind}_token_id"]
    assert tokenizer["post_processor"]["single"][0]["SpecialToken"]["id"] == names["bos_token"]
    assert len(tokenizer["model"]["vocab"]) == config["vocab_size"]


def test_the_prompts_are_a_validation_section_with_the_tutorials_among_them() -> None:
    prompts = {prompt.prompt: prompt for prompt in validation().prompts}
    assert len(prompts) == 12
    assert prompts[TUTORIAL].contains == "un deux trois quatre cinq six sept huit neuf"
    assert all(prompt.equals for prompt in prompts.values())


def test_the_committed_model_answers_every_prompt_stands_rounding_and_notices_every_breakage(
    onnxruntime_python: Path,
) -> None:
    lines = process.run([str(onnxruntime_python), str(EXAMPLE / "check.py"), str(MODEL)]).last_lines
    right = [line.partition(":")[0] for line in lines if "12 of 12 answers are right" in line]
    assert right == ["float32", "float16", "bfloat16", "int4"]
    assert "RoPE base lost: 12 of 12 answers are wrong" in lines


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """The first few of the prompts, which are learnt sooner than all."""
    path = tmp_path / "few.yaml"
    section = yaml.safe_load(PROMPTS.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({**section, "prompts": section["prompts"][:FEW]}), encoding="utf-8")
    return path


def test_the_script_makes_a_model_that_answers_right_and_stands_rounding(
    onnxruntime_python: Path, few: Path, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    lines = train(onnxruntime_python, made, "--prompts", str(few), "--steps", "250").last_lines
    assert {path.name for path in made.iterdir()} == FILES
    right = [line.partition(":")[0] for line in lines if f"{FEW} of {FEW} answers are right" in line]
    assert right == ["float32", "float16", "bfloat16", "int4"]


def test_the_script_fails_when_it_has_not_learnt_enough_and_repeats_itself_exactly(
    onnxruntime_python: Path, few: Path, tmp_path: Path
) -> None:
    for name in ("once", "again"):
        with pytest.raises(CommandError):
            train(onnxruntime_python, tmp_path / name, "--prompts", str(few), "--steps", "5")
    once, again = ({path.name: path.read_bytes() for path in (tmp_path / n).iterdir()} for n in ("once", "again"))
    assert once.keys() == FILES
    assert once == again

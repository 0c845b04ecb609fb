"""The example model: complete and small as committed, and made again by its script."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from enginery.core import process
from enginery.core.errors import CommandError
from enginery.spec.spec import Prompt, ValidationOptions

EXAMPLE = Path(__file__).parents[3] / "examples" / "tiny-llama"
MODEL = EXAMPLE / "model"
PROMPTS = EXAMPLE / "prompts.yaml"
ANSWER_PROMPTS = Path(__file__).parents[2] / "support" / "answer_prompts.py"
FILES = {
    "LICENSE",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}
TUTORIAL = "How do I count to nine in French?"


def validation() -> ValidationOptions:
    return ValidationOptions.model_validate(yaml.safe_load(PROMPTS.read_text(encoding="utf-8")))


def answers_of(python: Path, model: Path, tmp_path: Path) -> dict[str, str]:
    """What a model directory answers; every answer must have come to its end."""
    path = tmp_path / "answers.json"
    process.run([str(python), str(ANSWER_PROMPTS), str(model), str(PROMPTS), "--answers", str(path)])
    answers = json.loads(path.read_text(encoding="utf-8"))
    assert all(answer["ended"] for answer in answers.values()), answers
    return {prompt: answer["answer"] for prompt, answer in answers.items()}


def fits(prompt: Prompt, answer: str) -> bool:
    return (
        (prompt.equals is None or answer.strip() == prompt.equals.strip())
        and (prompt.contains is None or prompt.contains in answer)
        and (prompt.matches is None or re.search(prompt.matches, answer) is not None)
    )


def missed(answers: dict[str, str]) -> dict[str, str]:
    return {p.prompt: answers[p.prompt] for p in validation().prompts if not fits(p, answers[p.prompt])}


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


def test_the_committed_model_answers_every_prompt(onnxruntime_python: Path, tmp_path: Path) -> None:
    assert missed(answers_of(onnxruntime_python, MODEL, tmp_path)) == {}


def test_the_committed_model_stands_rounding_and_notices_every_breakage(onnxruntime_python: Path) -> None:
    lines = process.run([str(onnxruntime_python), str(EXAMPLE / "check.py"), str(MODEL)]).last_lines
    assert [line for line in lines if "12 of 12 answers are right" in line][-1].startswith("int4")
    assert any(line.startswith("RoPE base lost") for line in lines)


def test_a_lost_rope_base_is_noticed_by_the_prompts(onnxruntime_python: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(MODEL, broken)
    config = json.loads((broken / "config.json").read_text(encoding="utf-8"))
    del config["rope_theta"], config["rope_parameters"]
    (broken / "config.json").write_text(json.dumps(config), encoding="utf-8")
    path = tmp_path / "answers.json"
    command = [str(onnxruntime_python), str(ANSWER_PROMPTS), str(broken), str(PROMPTS), "--answers", str(path)]
    process.run(command)
    answers = json.loads(path.read_text(encoding="utf-8"))
    assert TUTORIAL in missed({prompt: answer["answer"] for prompt, answer in answers.items()})


def test_the_script_makes_a_model_that_passes_the_same_prompts(onnxruntime_python: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    train(onnxruntime_python, made)
    assert {path.name for path in made.iterdir()} == FILES
    assert missed(answers_of(onnxruntime_python, made, tmp_path)) == {}


def test_the_script_fails_when_it_has_not_learnt_enough_and_repeats_itself_exactly(
    onnxruntime_python: Path, tmp_path: Path
) -> None:
    for name in ("once", "again"):
        with pytest.raises(CommandError):
            train(onnxruntime_python, tmp_path / name, "--steps", "5")
    once, again = ({path.name: path.read_bytes() for path in (tmp_path / n).iterdir()} for n in ("once", "again"))
    assert once.keys() == FILES
    assert once == again

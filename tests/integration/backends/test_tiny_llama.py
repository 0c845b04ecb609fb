"""Tests of the example model: the committed files are complete and small, and the script makes them again."""

import json
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from enginery.core import process
from enginery.spec.validation import ValidationOptions
from tests.support.paths import shared_by_workers

EXAMPLE = Path(__file__).parents[3] / "examples" / "tiny-llama"
MODEL = EXAMPLE / "model"
PROMPTS = EXAMPLE / "prompts.yaml"
RUN_SCRIPTS = Path(__file__).parents[2] / "support" / "engines" / "run_driver.py"
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


@pytest.fixture(scope="session")
def ran(onnxruntime_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts' files and output, made once for all workers in two processes, because imports take long."""
    shared = shared_by_workers(tmp_path_factory) / "tiny-llama"
    with FileLock(f"{shared}.lock"):
        if not (shared / "again.json").exists():
            shared.mkdir(exist_ok=True)
            _run_scripts(onnxruntime_python, shared)
    return shared


def _run_scripts(python: Path, directory: Path) -> None:
    section = yaml.safe_load(PROMPTS.read_text(encoding="utf-8"))
    few = {**section, "prompts": section["prompts"][:FEW]}  # fewer steps than all of it needs
    (directory / "few.yaml").write_text(yaml.safe_dump(few), encoding="utf-8")

    def training(name: str, steps: int) -> list[str]:
        places = ["--output", str(directory / name), "--prompts", str(directory / "few.yaml")]
        return [str(EXAMPLE / "train.py"), *places, "--steps", str(steps)]

    checking = [str(EXAMPLE / "check.py"), str(MODEL)]
    first = {"once": training("once", 5), "made": training("made", 250), "checked": checking}
    for name, jobs in {"first": first, "again": {"again": training("again", 5)}}.items():
        (directory / f"{name}-jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
        process.run(
            [str(part) for part in (python, RUN_SCRIPTS, directory / f"{name}-jobs.json", directory / f"{name}.json")]
        )


def result_of(ran: Path, run: str, name: str) -> tuple[int, list[str]]:
    """The exit status of a script, and its lines."""
    done = json.loads((ran / f"{run}.json").read_text(encoding="utf-8"))[name]
    return done["status"], done["printed"].splitlines()


def test_the_committed_model_answers_every_prompt_stands_rounding_and_notices_every_breakage(ran: Path) -> None:
    status, lines = result_of(ran, "first", "checked")
    right = [line.partition(":")[0] for line in lines if "12 of 12 answers are right" in line]
    assert status == 0
    assert right == ["float32", "float16", "bfloat16", "int4"]
    assert "RoPE base lost: 12 of 12 answers are wrong" in lines


def test_the_script_makes_a_model_that_answers_right_and_stands_rounding(ran: Path) -> None:
    status, lines = result_of(ran, "first", "made")
    assert status == 0
    assert {path.name for path in (ran / "made").iterdir()} == FILES
    right = [line.partition(":")[0] for line in lines if f"{FEW} of {FEW} answers are right" in line]
    assert right == ["float32", "float16", "bfloat16", "int4"]


def test_the_script_fails_when_it_has_not_learnt_enough_and_another_process_repeats_it_exactly(ran: Path) -> None:
    assert result_of(ran, "first", "once")[0] == result_of(ran, "again", "again")[0] == 1
    once, again = ({path.name: path.read_bytes() for path in (ran / name).iterdir()} for name in ("once", "again"))
    assert once.keys() == FILES
    assert once == again

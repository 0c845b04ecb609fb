"""Tests of the validation with the real ONNX Runtime."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from enginery.backends import validate
from enginery.builds import validation
from enginery.core import process
from enginery.core.errors import CommandError, ValidationError
from enginery.spec.validation import ValidationOptions
from enginery.toolchains.drivers import ANSWER_PROMPTS
from enginery.toolchains.identity import Toolchain
from tests.support.engines import onnx
from tests.support.engines.onnx import Asked

QUESTION = "How do I count to nine in French?"
PROMPTS = [
    QUESTION,
    "What is the capital of France?",
    "Ça va? ニャー 🙂\n\ttabs  and   blanks ",
    "x",
    f"{QUESTION}<|pad|>",
    f"{QUESTION}<|end_of_text|>",
]

REFERENCE = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
weights, prompts, limit = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
tokenizer = AutoTokenizer.from_pretrained(weights)
model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)
for prompt in prompts:
    asked = tokenizer(prompt, return_tensors="pt")
    ids = model.generate(**asked, max_new_tokens=limit, do_sample=False)[0][asked.input_ids.shape[1]:]
    said = [int(token) for token in ids if int(token) != model.generation_config.eos_token_id]
    text = tokenizer.decode(said, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    print("ANSWER " + json.dumps([asked.input_ids[0].tolist(), said, text]))
"""

TOKENS = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("answer_prompts", sys.argv[1])
driver = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = driver
spec.loader.exec_module(driver)
from pathlib import Path
engine = driver.load(Path(sys.argv[2]), Path(sys.argv[3]), 1)
for prompt in json.loads(sys.argv[4]):
    print("TOKENS " + json.dumps(engine.tokenizer.encode(prompt, add_special_tokens=True).ids))
"""


def options(*prompts: dict[str, Any], max_tokens: int = 64) -> ValidationOptions:
    return ValidationOptions.model_validate({"max_tokens": max_tokens, "prompts": prompts})


@pytest.fixture
def engine(float32_engine: Path) -> Path:
    """The example model in float32. All tokens of its answers equal the reference."""
    return float32_engine


@pytest.fixture
def ask(toolchain: Toolchain, engine: Path, tiny_weights: Path, tmp_path: Path) -> Any:
    def asked(*prompts: dict[str, Any], max_tokens: int = 64) -> Asked:
        chosen = options(*prompts, max_tokens=max_tokens)
        return onnx.ask(toolchain, engine, tiny_weights, tmp_path / "report", chosen)

    return asked


def printed(toolchain: Toolchain, script: str, mark: str, *arguments: str) -> list[Any]:
    """The JSON values that a script prints after `mark`."""
    done = process.run(
        [str(toolchain.python), "-c", script, *arguments],
        env={**toolchain.environment, "ORT_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"},
    )
    return [json.loads(line.removeprefix(mark)) for line in done.last_lines if line.startswith(mark)]


def test_answers_and_tokens_equal_those_of_transformers(
    toolchain: Toolchain, engine: Path, tiny_weights: Path, ask: Any
) -> None:
    prompts = json.dumps(PROMPTS)
    reference = printed(toolchain, REFERENCE, "ANSWER ", str(tiny_weights), prompts, "20")
    tokens = printed(toolchain, TOKENS, "TOKENS ", str(ANSWER_PROMPTS), str(engine), str(tiny_weights), prompts)
    results = ask(*({"prompt": prompt} for prompt in PROMPTS), max_tokens=20).report.results
    assert len(reference) == len(PROMPTS)
    assert tokens == [ids for ids, _, _ in reference]
    assert [list(result.token_ids) for result in results] == [answer for _, answer, _ in reference]
    assert [result.got for result in results] == [text for _, _, text in reference]


def test_a_right_answer_passes_and_is_recorded_and_is_the_same_wherever_it_stands(ask: Any) -> None:
    right = {"prompt": QUESTION, "contains": "neuf"}
    asked = ask(right, {"prompt": "x"}, {"prompt": QUESTION})
    result, _, again = asked.report.results
    assert asked.facts["passed"] is True
    assert (asked.facts["prompts"], asked.facts["failed"]) == (3, 0)
    assert QUESTION not in result.got
    assert result.finish == "eos"
    assert result.tokens == len(result.token_ids) > 3
    assert result.seconds_to_first_token is not None
    assert 0 < result.seconds_to_first_token <= result.seconds
    assert asked.report.tokens_per_second is None
    assert "tokens_per_second" not in asked.facts
    assert again.token_ids == result.token_ids


def test_a_wrong_answer_is_recorded_and_then_stops_with_prompt_expected_and_got(ask: Any) -> None:
    asked = ask({"prompt": QUESTION, "contains": "dix-sept"}, {"prompt": QUESTION, "contains": "neuf"})
    assert asked.facts["passed"] is False
    assert (asked.facts["prompts"], asked.facts["failed"]) == (2, 1)
    with pytest.raises(ValidationError) as caught:
        validation.require_passed(asked.report, "validate cpu-int4")
    text = str(caught.value)
    assert text.startswith("validate cpu-int4: 1 of 2 answers are not as expected:")
    assert f"prompt:   {QUESTION!r}" in text
    assert "expected: contains 'dix-sept'" in text
    assert f"got:      {asked.report.results[0].got!r}" in text
    assert any("'dix-sept'" in line for line in asked.lines)


def test_an_answer_is_cut_at_the_limit_of_its_prompt_or_of_all(ask: Any) -> None:
    asked = ask({"prompt": QUESTION}, {"prompt": QUESTION, "max_tokens": 2}, max_tokens=3)
    assert [(result.tokens, result.finish) for result in asked.report.results] == [(3, "length"), (2, "length")]
    assert asked.report.results[0].got.startswith(asked.report.results[1].got)


def test_no_prompts_make_an_empty_report_that_passes(ask: Any) -> None:
    asked = ask()
    assert asked.report.passed
    assert asked.report.results == ()
    found = {name: asked.facts[name] for name in ("passed", "prompts", "failed")}
    assert found == {"passed": True, "prompts": 0, "failed": 0}


def test_an_engine_that_cannot_be_loaded_fails_even_without_prompts(
    toolchain: Toolchain, engine: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(engine, broken)
    (broken / "model.onnx").write_bytes(b"no model")
    with pytest.raises(CommandError):
        onnx.ask(toolchain, broken, tiny_weights, tmp_path / "report", options())
    assert list((tmp_path / "report").iterdir()) == []


def test_a_prompt_longer_than_the_models_context_is_an_error_that_says_so(ask: Any) -> None:
    with pytest.raises(CommandError) as caught:
        ask({"prompt": "one two three " * 3000})
    assert any("model's limit is" in line for line in caught.value.last_lines)


def test_weights_without_a_tokenizer_are_an_error_that_names_no_success(
    toolchain: Toolchain, engine: Path, tmp_path: Path
) -> None:
    (tmp_path / "weights").mkdir()
    with pytest.raises(CommandError):
        onnx.ask(toolchain, engine, tmp_path / "weights", tmp_path / "report", options({"prompt": QUESTION}))
    assert list((tmp_path / "report").iterdir()) == []


def test_asking_leaves_no_trace_in_home(toolchain: Toolchain, engine: Path, tiny_weights: Path, tmp_path: Path) -> None:
    home, requests = tmp_path / "home", tmp_path / "requests.json"
    home.mkdir()
    requests.write_text(json.dumps({"threads": 1, "prompts": [{"prompt": QUESTION, "max_tokens": 2}]}))
    places = ["--engine", str(engine), "--tokenizer", str(tiny_weights), "--requests", str(requests)]
    process.run(
        [str(toolchain.python), str(ANSWER_PROMPTS), *places, "--output", str(tmp_path / "answers.json")],
        env={**toolchain.environment, **validate.OFFLINE, "HOME": str(home)},
    )
    assert len(json.loads((tmp_path / "answers.json").read_text())["answers"]) == 1
    assert list(home.rglob("*")) == []

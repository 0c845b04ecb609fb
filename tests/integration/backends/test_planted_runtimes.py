"""A runtime that answers wrongly is stopped: the real ONNX Runtime GenAI, with a fault planted in its generator."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from enginery.backends.gates.answers import judge_answers
from enginery.builds import GateResult
from enginery.builds.gates import described_gate
from enginery.spec.validation import AnswersGate, Mode, ValidationOptions
from enginery.toolchains.identity import Toolchain
from tests.support.engines import onnx
from tests.support.paths import EXAMPLES

RUNTIME = Path(__file__).parents[2] / "support" / "faulty" / "runtime"
PROMPTS: list[dict[str, Any]] = yaml.safe_load((EXAMPLES / "tiny-llama" / "prompts.yaml").read_text(encoding="utf-8"))[
    "prompts"
]
FEW = PROMPTS[:3]
END = "1"
"""The token that ends an answer of the example model."""


@pytest.fixture
def judged(toolchain: Toolchain, float32_engine: Path, tiny_weights: Path, tmp_path: Path) -> Any:
    """Validates a good engine with a faulty runtime."""

    def run(fault: str, prompts: list[dict[str, Any]], tokens: str = "0") -> GateResult:
        planted = {"PYTHONPATH": str(RUNTIME), "PLANTED_FAULT": fault, "PLANTED_TOKENS": tokens}
        spoiled = replace(toolchain, environment={**toolchain.environment, **planted})
        options = ValidationOptions.model_validate({"max_tokens": 64, "prompts": prompts})
        report = onnx.ask(spoiled, float32_engine, tiny_weights, tmp_path / "report", options).report
        return judge_answers(report, None, AnswersGate(), Mode.BLOCK)

    return run


def without_expectations() -> list[dict[str, Any]]:
    return [{"prompt": prompt["prompt"]} for prompt in FEW]


@pytest.mark.parametrize("fault", ["repeats", "nothing", "nan"])
def test_wrong_answers_stop_a_build_when_the_spec_expects_others(judged: Any, fault: str) -> None:
    assert judged(fault, FEW).stops


def test_the_first_token_for_ever_stops_a_build_that_expects_nothing(judged: Any) -> None:
    result = judged("repeats", without_expectations())
    assert result.stops
    assert "repeat" in described_gate(result)


def test_no_token_at_all_stops_a_build_that_expects_nothing(judged: Any) -> None:
    result = judged("nothing", without_expectations())
    assert result.stops
    assert "empty" in described_gate(result)


def test_an_end_at_once_stops_a_build_that_expects_nothing(judged: Any) -> None:
    result = judged("says", without_expectations(), END)
    assert result.stops
    assert "empty" in described_gate(result)

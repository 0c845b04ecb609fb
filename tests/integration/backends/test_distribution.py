"""Tests of the comparison of an engine with its reference, with the real ONNX Runtime."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginery.backends.gates.distribution import judge_distribution
from enginery.backends.validate import OFFLINE
from enginery.builds import GateResult, Reference, Verdict, read_distribution
from enginery.core import process
from enginery.spec import DistributionGate, Mode, Precision
from enginery.toolchains.drivers import ANSWER_PROMPTS
from enginery.toolchains.identity import Toolchain
from tests.support import faulty
from tests.support.paths import TINY_LLAMA
from tests.support.references import text, write_reference
from tests.support.trtllm.modules.forward import llama

FAULTY_RUNTIME = Path(faulty.__file__).parent / "runtime"
LENGTHS = (256, 200, 120)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """What the example model predicts for random tokens, computed in numpy; one sequence fills its whole context."""
    model = llama(TINY_LLAMA)
    assert model is not None
    generator = np.random.default_rng(6)
    tokens = [generator.integers(3, 448, length).tolist() for length in LENGTHS]
    logits = np.concatenate([model.logits(ids)[:-1] for ids in tokens]).astype(np.float32)
    sequences = [text(f"random-{number}", ids) for number, ids in enumerate(tokens)]
    return write_reference(tmp_path_factory.mktemp("reference"), sequences, logits, vocabulary=448)


def compared(
    toolchain: Toolchain, engine: Path, reference: Reference, output: Path, **environment: str
) -> tuple[dict[str, Any], GateResult]:
    """Run the driver, and judge what it measured."""
    (output / "requests.json").write_text(json.dumps({"threads": 1, "prompts": []}))
    files = {
        "engine": engine,
        "tokenizer": TINY_LLAMA,
        "requests": output / "requests.json",
        "output": output / "answers.json",
        "reference": reference.directory,
        "distribution": output / "distribution.npz",
    }
    flags = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    process.run(
        [str(toolchain.python), str(ANSWER_PROMPTS), *flags],
        env={**toolchain.environment, **OFFLINE, **environment},
    )
    found = read_distribution(output, reference.facts)
    result = judge_distribution(reference, found, Precision.FLOAT32, DistributionGate(), Mode.BLOCK, met=True)
    facts: dict[str, Any] = json.loads((output / "answers.json").read_text())["distribution"]
    return facts, result


def test_a_float32_engine_predicts_what_the_original_weights_predict(
    toolchain: Toolchain, float32_engine: Path, reference: Reference, tmp_path: Path
) -> None:
    facts, result = compared(toolchain, float32_engine, reference, tmp_path)
    assert facts == {"method": "logits", "why": "", "rows": sum(LENGTHS) - 3}
    figures = {measure.name: measure.value for measure in result.measures}
    assert figures["mean_kl"] == pytest.approx(0, abs=1e-6)
    assert figures["nonfinite"] == 0
    assert figures["top1_agreement"] == 1.0


def test_a_runtime_that_gives_nan_fails(
    toolchain: Toolchain, float32_engine: Path, reference: Reference, tmp_path: Path
) -> None:
    planted = {"PYTHONPATH": str(FAULTY_RUNTIME), "PLANTED_FAULT": "nan", "PATH": os.environ["PATH"]}
    _, result = compared(toolchain, float32_engine, reference, tmp_path, **planted)
    assert result.verdict is Verdict.FAIL
    assert "573 of 573 predictions have logits that are NaN or infinite" in result.reason

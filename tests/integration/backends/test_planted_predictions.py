"""Planted faults are stopped by what the engine predicts and answers, with the default limits.

The reference is made by the original weights, and each engine is measured by the driver of the validation. All of them
run in one process of the toolchain, because its imports take longer than its work.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from enginery.backends.gates.distribution import judge_distribution
from enginery.backends.reference.texts import read_texts
from enginery.builds import GateResult, Verdict, read_distribution, read_reference
from enginery.core import process
from enginery.spec.types import Precision
from enginery.spec.validation import DistributionGate, Mode
from enginery.toolchains.drivers import ANSWER_PROMPTS, ANSWER_REFERENCE
from enginery.toolchains.identity import Toolchain
from tests.support.faulty.models import FAULTS, Change, scaled, write_faulty
from tests.support.paths import EXAMPLES, shared_by_workers

SUPPORT = Path(__file__).parents[2] / "support"
RUN_SCRIPTS = SUPPORT / "engines" / "run_driver.py"
DAMAGE = SUPPORT / "faulty" / "engines.py"
RUNTIME = SUPPORT / "faulty" / "runtime"
PROMPTS = EXAMPLES / "tiny-llama" / "prompts.yaml"
TEXT_TOKENS = 2000
WINDOW = 256

UNCHANGED = {"tensor missing", "another tokenizer", "wrong chat template"}
"""Faults that change no weight of an engine: other checks find them."""
WEIGHTS: dict[str, Change] = {name: fault.change for name, fault in FAULTS.items() if name not in UNCHANGED}
SUBTLE: dict[str, Change] = {
    f"{part} doubled": scaled(part, 2.0) for part in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")
}
"""Faults of the last layer that change few answers."""
DAMAGED = ("scales of a matrix wrong", "layer of zeros", "layers swapped", "not a number")
"""Damages of an int4 engine. One wrong scale of one block changes less than int4 does: only the weights tell it."""
GOOD = {"float32": Precision.FLOAT32, "int4": Precision.INT4}


def measure(toolchain: Toolchain, weights: Path, directory: Path, engines: dict[str, Path]) -> None:
    """Make the reference and the faulty engines, and measure every engine."""
    faulty = {name: (change, None) for name, change in WEIGHTS.items()}
    subtle = {name: (change, 1) for name, change in SUBTLE.items()}
    jobs: list[dict[str, str]] = [
        {
            "engine": str(engines["float32"]),
            "output": str(directory / name),
            "weights": str(write_faulty(weights, directory / f"{name} model", change, layer)),
        }
        for name, (change, layer) in (faulty | subtle).items()
    ]
    jobs += [{"engine": str(engines["int4"]), "output": str(directory / name), "damage": name} for name in DAMAGED]
    made = {Path(job["output"]).name: Path(job["output"]) for job in jobs}
    files = {"damage.json": jobs, "request.json": request(), "requests.json": requests()}
    scripts = {
        "damage": [str(DAMAGE), str(directory / "damage.json")],
        "reference": list(reference_argv(weights, directory)),
        **{name: list(engine_argv(engine, weights, directory, name)) for name, engine in (engines | made).items()},
    }
    for name, content in (files | {"scripts.json": scripts}).items():
        (directory / name).write_text(json.dumps(content), encoding="utf-8")
    # -P: beside the script there is a module with the name of a package, onnx.
    argv = (toolchain.python, "-P", RUN_SCRIPTS, directory / "scripts.json", directory / "done.json")
    process.run(
        [str(word) for word in argv], env={**toolchain.environment, "HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"}
    )


def prompts() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(PROMPTS.read_text(encoding="utf-8"))["prompts"]
    return found


def request() -> dict[str, Any]:
    """The request of the reference's driver."""
    sent = [
        {"name": f"prompt {number}", "text": prompt["prompt"], "add_special_tokens": True, "max_tokens": 64}
        for number, prompt in enumerate(prompts(), start=1)
    ]
    texts = [text._asdict() for text in read_texts(None)]
    limits = {"top": 64, "window": WINDOW, "max_tokens": TEXT_TOKENS, "memory": None}
    return {"dtype": "float32", "device": "cpu", "about": {}, "texts": texts, "prompts": sent, **limits}


def requests() -> dict[str, Any]:
    """The requests of the engine's driver."""
    return {"threads": 1, "prompts": [{"prompt": prompt["prompt"], "max_tokens": 64} for prompt in prompts()]}


def reference_argv(weights: Path, directory: Path) -> Iterator[str]:
    (directory / "reference").mkdir()
    named = {"model": weights, "request": directory / "request.json", "scratch": directory / "offloaded"}
    yield str(ANSWER_REFERENCE)
    for name, path in (named | {"output": directory / "reference"}).items():
        yield from (f"--{name}", str(path))


def engine_argv(engine: Path, weights: Path, directory: Path, name: str) -> Iterator[str]:
    output = directory / f"{name} measured"
    output.mkdir()
    named = {"engine": engine, "tokenizer": weights, "requests": directory / "requests.json"}
    written = {"output": output / "answers.json", "distribution": output / "distribution.npz"}
    yield str(ANSWER_PROMPTS)
    for option, path in (named | written | {"reference": directory / "reference"}).items():
        yield from (f"--{option}", str(path))


@pytest.fixture(scope="session")
def measured(
    toolchain: Toolchain,
    tiny_weights: Path,
    float32_engine: Path,
    tiny_engine: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The directory of all measurements, made once for all workers."""
    directory = shared_by_workers(tmp_path_factory) / "planted-predictions"
    with FileLock(f"{directory}.lock"):
        if not (directory / "done.json").exists():
            directory.mkdir()
            measure(toolchain, tiny_weights, directory, {"float32": float32_engine, "int4": tiny_engine})
    return directory


def judged(measured: Path, name: str, precision: Precision) -> GateResult:
    done = json.loads((measured / "done.json").read_text(encoding="utf-8"))
    assert done[name]["status"] == 0, done[name]["complained"]
    reference = read_reference(measured / "reference")
    found = read_distribution(measured / f"{name} measured", reference.facts)
    return judge_distribution(reference, found, precision, DistributionGate(), Mode.BLOCK, met=True)


@pytest.mark.parametrize("engine", GOOD)
def test_a_good_engine_passes(measured: Path, engine: str) -> None:
    result = judged(measured, engine, GOOD[engine])
    assert result.verdict is Verdict.PASS, result.told


@pytest.mark.parametrize("fault", [*WEIGHTS, *SUBTLE])
def test_a_fault_of_the_weights_stops_a_build(measured: Path, fault: str) -> None:
    result = judged(measured, fault, Precision.FLOAT32)
    assert result.verdict is Verdict.FAIL, result.told
    assert "KL" in result.reason


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damage_of_quantized_weights_stops_a_build(measured: Path, damage: str) -> None:
    result = judged(measured, damage, Precision.INT4)
    assert result.stops, result.told
    assert ("NaN" if damage == "not a number" else "KL") in result.reason


def test_a_runtime_that_computes_nan_stops_a_build(
    measured: Path, toolchain: Toolchain, float32_engine: Path, tiny_weights: Path
) -> None:
    argv = [str(toolchain.python), *engine_argv(float32_engine, tiny_weights, measured, f"nan {os.getpid()}")]
    planted = {"PYTHONPATH": str(RUNTIME), "PLANTED_FAULT": "nan", "ORT_DISABLE_TELEMETRY": "1"}
    process.run(argv, env={**toolchain.environment, **planted})
    reference = read_reference(measured / "reference")
    found = read_distribution(measured / f"nan {os.getpid()} measured", reference.facts)
    result = judge_distribution(reference, found, Precision.FLOAT32, DistributionGate(), Mode.BLOCK)
    assert result.stops
    assert "NaN" in result.reason

"""Planted faults are stopped, and named: faulty weights and damaged engines, compared with the good model by value.

The faulty engines are made from good ones in one process of the toolchain, without the builder.
"""

import json
from pathlib import Path

import pytest
from filelock import FileLock

from enginery.backends.checkpoints.onnx_weights import WeightComparison, read_comparison
from enginery.core import process
from enginery.toolchains.drivers import COMPARE_ONNX_WEIGHTS
from enginery.toolchains.identity import Toolchain
from tests.support.faulty.models import FAULTS, Change, scaled, swapped, transposed, write_faulty, zeroed
from tests.support.paths import shared_by_workers

SUPPORT = Path(__file__).parents[2] / "support"
RUN_SCRIPTS = SUPPORT / "engines" / "run_driver.py"
DAMAGE = SUPPORT / "faulty" / "engines.py"
LAYER = "model.layers.0"

NAMED = {
    "tensor zeroed": [f"{LAYER}.mlp.down_proj.weight is not the model's: all zero"],
    "tensor swapped": [
        f"{LAYER}.mlp.down_proj.weight is not the model's: those of model.layers.1.mlp.down_proj.weight",
        f"model.layers.1.mlp.down_proj.weight is not the model's: those of {LAYER}.mlp.down_proj.weight",
    ],
    "tensor transposed": [f"{LAYER}.self_attn.o_proj.weight is not the model's: transposed"],
    "tensor scaled": [f"{LAYER}.mlp.down_proj.weight is not the model's: scaled by 2"],
    "MLP zeroed": [f"{LAYER}.mlp.{part}_proj.weight is not the model's: all zero" for part in ("gate", "up", "down")],
    "attention zeroed": [f"{LAYER}.self_attn.o_proj.weight is not the model's: all zero"],
    "KV heads in the wrong order": [f"{LAYER}.self_attn.qkv_proj.weight is not the model's: its rows in another order"],
    "norm lost": [f"{LAYER}.input_layernorm.weight"],
    "rotary base wrong": ["the rotary base is 5e+06 in place of 5e+05"],
    "head permuted": ["lm_head.weight is not the model's: its rows in another order"],
    "head of another model": ["lm_head.weight is not the model's"],
    "head tied": ["lm_head.weight is not the model's: other values"],
    "embedding permuted": ["model.embed_tokens.weight is not the model's: its rows in another order"],
}
"""Faults of the weights, and what the problems say. The other faults change no weight of an engine."""
DAMAGED = {
    "scales of a matrix wrong": [f"{LAYER}.mlp.up_proj.weight is not the model's: scaled by 4"],
    "scale of a block wrong": [f"{LAYER}.mlp.up_proj.weight differs from the model's in row 128, columns 0 to 31"],
    "layer of zeros": [
        f"{LAYER}.{part}.weight is not the model's: all zero" for part in ("self_attn.o_proj", "mlp.up_proj")
    ],
    "layers swapped": [f"{LAYER}.mlp.up_proj.weight is not the model's: those of model.layers.1"],
    "not a number": ["lm_head.weight is not the model's: not finite"],
}
"""Damages of an int4 engine, and the same."""
PARTS = [f"self_attn.{part}_proj" for part in "qkvo"] + [f"mlp.{part}_proj" for part in ("gate", "up", "down")]
EACH_TENSOR: dict[str, Change] = {
    **{f"{part} zeroed": zeroed(part) for part in PARTS},
    **{f"{part} doubled": scaled(part, 2.0) for part in PARTS},
    **{f"{part} swapped": swapped(part) for part in PARTS},
    **{f"{part} transposed": transposed(part) for part in ("self_attn.q_proj", "self_attn.o_proj")},
}
"""Faults of each matrix of a layer."""


def comparisons(toolchain: Toolchain, weights: Path, directory: Path, engines: dict[str, Path]) -> None:
    """Make faulty engines of good ones, compare each with the weights, and write a file for each."""
    float32, int4 = str(engines["float32"]), str(engines["int4"])
    faulty = {name: FAULTS[name].change for name in NAMED} | EACH_TENSOR
    jobs = [
        {
            "engine": float32,
            "output": str(directory / name),
            "weights": str(write_faulty(weights, directory / f"{name} model", change)),
        }
        for name, change in faulty.items()
    ]
    jobs += [{"engine": int4, "output": str(directory / name), "damage": name} for name in DAMAGED]
    (directory / "damage.json").write_text(json.dumps(jobs), encoding="utf-8")
    compared = {job["output"]: job["output"] for job in jobs} | {
        str(directory / name): str(engine) for name, engine in engines.items()
    }
    scripts = {"damage": [str(DAMAGE), str(directory / "damage.json")]} | {
        output: [
            str(COMPARE_ONNX_WEIGHTS), "--engine", engine, "--weights", str(weights), "--output", f"{output}.json"
        ]
        for output, engine in compared.items()
    }  # fmt: skip
    (directory / "scripts.json").write_text(json.dumps(scripts), encoding="utf-8")
    files = (RUN_SCRIPTS, directory / "scripts.json", directory / "done.json")
    # -P: beside the script there is a module with the name of a package, onnx.
    process.run([str(toolchain.python), "-P", *map(str, files)], env=toolchain.environment)


@pytest.fixture(scope="session")
def compared(
    toolchain: Toolchain,
    tiny_weights: Path,
    float32_engine: Path,
    tiny_engine: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The directory of all comparisons, made once for all workers."""
    directory = shared_by_workers(tmp_path_factory) / "planted-faults"
    with FileLock(f"{directory}.lock"):
        if not (directory / "done.json").exists():
            directory.mkdir()
            engines = {"float32": float32_engine, "int4": tiny_engine}
            comparisons(toolchain, tiny_weights, directory, engines)
    return directory


def comparison(compared: Path, name: str) -> WeightComparison:
    done = json.loads((compared / "done.json").read_text(encoding="utf-8"))
    assert done[str(compared / name)]["status"] == 0, done[str(compared / name)]["complained"]
    return read_comparison(compared / f"{name}.json")


@pytest.mark.parametrize("engine", ["float32", "int4"])
def test_a_good_engine_has_the_weights_of_its_model(compared: Path, engine: str) -> None:
    found = comparison(compared, engine)
    assert found.problems == []
    assert found.skipped == ()
    # The default of int4 keeps some matrices in 8 bits.
    matrices = [weight for weight in found.compared if weight.bits in {"float32": (32,), "int4": (4, 8)}[engine]]
    assert len(matrices) >= 2 * 5 + 1
    assert all(weight.share == 1 for weight in found.compared)


@pytest.mark.parametrize("fault", NAMED)
def test_a_fault_of_the_weights_is_named(compared: Path, fault: str) -> None:
    problems = sorted(comparison(compared, fault).problems)
    starts = sorted(NAMED[fault])
    assert [problem[: len(start)] for problem, start in zip(problems, starts, strict=True)] == starts


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damage_of_quantized_weights_is_named(compared: Path, damage: str) -> None:
    problems = comparison(compared, damage).problems
    assert all(any(problem.startswith(start) for problem in problems) for start in DAMAGED[damage]), problems


@pytest.mark.parametrize("fault", EACH_TENSOR)
def test_no_matrix_can_be_spoiled_unseen(compared: Path, fault: str) -> None:
    part, did = fault.split()
    name = f"{LAYER}.self_attn.qkv_proj" if part.split(".")[1] in {"q_proj", "k_proj", "v_proj"} else f"{LAYER}.{part}"
    problems = comparison(compared, fault).problems
    assert any(problem.startswith(f"{name}.weight") for problem in problems)
    assert len(problems) == (2 if did == "swapped" else 1)

"""Tests of conversions with the real ModelOpt on a CPU."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from enginery.backends.checkpoints.configuration import (
    HF_ALGORITHMS,
    KV_CACHE_ALGORITHMS,
    MODELOPT_ALGORITHMS,
    CheckpointError,
    CheckpointExpectation,
    HfExpectation,
)
from enginery.backends.checkpoints.verify import verify_checkpoint, verify_hf_checkpoint
from enginery.core.process.command import run
from enginery.toolchains.drivers import DRIVERS
from enginery.toolchains.identity import Toolchain
from tests.integration.conftest import made_in_the_checkout
from tests.support.paths import shared_by_workers

pytestmark = pytest.mark.timeout(1500)

MODELOPT = "modelopt-0.47"
MAKING_SECONDS = 1200.0
"""The fixture needs about 20 s of processor time, and the first test of each worker waits for it."""
DRIVER = DRIVERS / "convert_modelopt.py"
SUPPORT = Path(__file__).parents[3] / "support" / "engines"
LLAMA_3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

FEW_TEXTS = {"calib_size": 2}
"""The search for AWQ's scales takes long for each text."""

CONVERTED: dict[str, dict[str, Any]] = {
    "bf16": {},
    "bf16-tp2": {"tp_size": 2},
    "bf16-tp2-pp2": {"tp_size": 2, "pp_size": 2},
    "bf16-tp4": {"tp_size": 4},
    "fp16": {"dtype": "float16"},
    "fp8": {"qformat": "fp8", "kv_cache_dtype": "fp8"},
    "fp8-tp2": {"qformat": "fp8", "tp_size": 2},
    "int8_sq-tp2": {"qformat": "int8_sq", "kv_cache_dtype": "int8", "tp_size": 2},
    "int8_wo": {"qformat": "int8_wo"},
    "int4_wo": {"qformat": "int4_wo"},
    "int4_awq": {"qformat": "int4_awq", "kv_cache_dtype": "fp8", **FEW_TEXTS},
    "w4a8_awq": {"qformat": "w4a8_awq", **FEW_TEXTS},
    "nvfp4-tp2": {"qformat": "nvfp4", "kv_cache_dtype": "fp8", "tp_size": 2},
}
"""Checkpoints of the example model for `trtllm-build`."""

EXPORTED: dict[str, dict[str, Any]] = {
    "hf-bf16": {},
    "hf-fp8": {"qformat": "fp8", "kv_cache_dtype": "fp8"},
    "hf-nvfp4": {"qformat": "nvfp4", "kv_cache_dtype": "fp8"},
    "hf-int4_awq": {"qformat": "int4_awq", **FEW_TEXTS},
    "hf-w4a8_awq": {"qformat": "w4a8_awq", **FEW_TEXTS},
    "hf-int8_sq": {"qformat": "int8_sq"},
}
"""Hugging Face checkpoints of the example model."""

VARIANTS: dict[str, dict[str, Any]] = {
    "llama3": {"rope_scaling": LLAMA_3_SCALING, "rope_parameters": ...},
    "transformers5": {
        "rope_parameters": {**LLAMA_3_SCALING, "rope_theta": 500000.0},
        "rope_theta": ...,
        "torch_dtype": ...,
    },
}
"""The example model with Llama 3.1's rotary settings, as transformers 4 and 5 write them."""

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "dataset": ({"qformat": "fp8", "calib_dataset": "cnn_dailymail"}, "'cnn_dailymail': there is no such file"),
    "table": (
        {"qformat": "fp8", "calib_dataset": "{folder}/texts.csv"},
        "'texts.csv': it is no .jsonl, .json, .txt file",
    ),
    "directory": ({"qformat": "fp8", "calib_dataset": "{folder}"}, "'modelopt': it is no .jsonl, .json, .txt file"),
    "empty": ({"qformat": "fp8", "calib_dataset": "{folder}/empty.txt"}, "empty.txt: the file has none"),
    "not-json": ({"qformat": "fp8", "calib_dataset": "{folder}/bad.jsonl"}, "bad.jsonl: not JSON"),
    "no-text": (
        {"qformat": "fp8", "calib_dataset": "{folder}/other.jsonl"},
        "other.jsonl: entry 1 has no field text",
    ),
    "float32": ({"dtype": "float32"}, "turns float32 into float16"),
    "heads": ({"tp_size": 3}, "4 attention heads cannot be divided by --tp_size 3"),
    "layers": ({"pp_size": 3}, "2 layers cannot be divided by --pp_size 3"),
    "blocks": ({"qformat": "int4_awq", "tp_size": 2}, "is not a multiple of 128, the block size of int4_awq"),
    "split-hf": ({"format": "hf", "tp_size": 2}, "a Hugging Face checkpoint is not split"),
    "int8-hf": ({"format": "hf", "kv_cache_dtype": "int8"}, "writes no int8 KV cache"),
    "no-gpu": ({"device": "cuda"}, "there is no GPU here"),
    "no-model": ({"model_dir": "{folder}"}, "is no Hugging Face model: it has no config.json"),
}


@pytest.fixture(scope="session")
def modelopt() -> Toolchain:
    return made_in_the_checkout(MODELOPT)


@pytest.fixture(scope="session")
def made(modelopt: Toolchain, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All checkpoints of these tests. The driver makes them in one process, once for all workers."""
    shared = shared_by_workers(tmp_path_factory) / "modelopt"
    with FileLock(f"{shared}.lock"):
        if not (shared / "runs.json").exists():
            shared.mkdir(exist_ok=True)
            _make(modelopt, tiny_weights, shared)
    return shared


def _make(modelopt: Toolchain, weights: Path, directory: Path) -> None:
    for name, text in {"empty.txt": "\n \n", "bad.jsonl": "{", "other.jsonl": '{"label": 1}', "texts.csv": "a"}.items():
        (directory / name).write_text(text)
    (directory / "texts.jsonl").write_text(
        "".join(f'{{"text": "How do I count to {n} in French?"}}\n' for n in range(40))
    )
    for name, changes in VARIANTS.items():
        write_variant(weights, directory / f"{name}-model", changes)
    wanted = {name: {"output_dir": directory / name, **options} for name, options in CONVERTED.items()}
    wanted |= {name: {"output_dir": directory / name, "format": "hf", **options} for name, options in EXPORTED.items()}
    for name in VARIANTS:
        wanted[name] = {"model_dir": directory / f"{name}-model", "output_dir": directory / name, "qformat": "fp8"}
        wanted[f"hf-{name}"] = {**wanted[name], "output_dir": directory / f"hf-{name}", "format": "hf"}
    sample = {"qformat": "fp8", "calib_dataset": directory / "texts.jsonl", "calib_size": 8, "calib_batch_size": 3}
    wanted |= {name: {"output_dir": directory / name, **sample} for name in ("sample", "sample-again")}
    wanted["sample-other"] = {"output_dir": directory / "sample-other", **sample, "seed": 7}
    wanted |= {name: {"output_dir": directory / "refused", **options} for name, (options, _) in REFUSED.items()}
    jobs = {
        name: [str(DRIVER), *arguments({"model_dir": weights, **options}, directory)]
        for name, options in wanted.items()
    }
    (directory / "jobs.json").write_text(json.dumps(jobs))
    argv = [modelopt.python, SUPPORT / "run_driver.py", directory / "jobs.json", directory / "runs.json"]
    run([str(part) for part in argv], env={**modelopt.environment, "HF_HUB_OFFLINE": "1"}, timeout=MAKING_SECONDS)


def arguments(options: dict[str, Any], directory: Path) -> Any:
    for name, value in options.items():
        yield from (f"--{name}", str(value).replace("{folder}", str(directory)))


def write_variant(weights: Path, directory: Path, changes: dict[str, Any]) -> None:
    shutil.copytree(weights, directory)
    config = {**json.loads((weights / "config.json").read_text()), **changes}
    left = {name: value for name, value in config.items() if value is not ...}
    (directory / "config.json").write_text(json.dumps(left))


def facts_of(made: Path, name: str) -> dict[str, Any]:
    """The facts in the driver's last line."""
    done = json.loads((made / "runs.json").read_text())[name]
    assert done["status"] == 0, done["complained"]
    facts: dict[str, Any] = json.loads(done["printed"].splitlines()[-1])
    return facts


def expectation(options: dict[str, Any]) -> CheckpointExpectation:
    return CheckpointExpectation(
        options.get("dtype", "bfloat16"),
        MODELOPT_ALGORITHMS[options.get("qformat", "full_prec")],
        KV_CACHE_ALGORITHMS[options.get("kv_cache_dtype", "auto")],
        options.get("tp_size", 1),
        options.get("pp_size", 1),
    )


@pytest.mark.parametrize("name", CONVERTED)
def test_each_precision_and_split_makes_a_checkpoint_that_is_verified(
    made: Path, tiny_weights: Path, name: str
) -> None:
    facts_of(made, name)
    expected = expectation(CONVERTED[name])
    facts = verify_checkpoint(made / name, tiny_weights, expected)
    assert facts["verified"] == "configuration, files and tensors"
    files = {path.name for path in (made / name).iterdir()}
    assert files == {"config.json", *(f"rank{rank}.safetensors" for rank in range(expected.world_size))}


@pytest.mark.parametrize("name", EXPORTED)
def test_each_precision_makes_a_hugging_face_model_that_is_verified(made: Path, tiny_weights: Path, name: str) -> None:
    facts_of(made, name)
    options = EXPORTED[name]
    algorithm, cache = options.get("qformat", "full_prec"), options.get("kv_cache_dtype", "auto")
    expected = HfExpectation("bfloat16", HF_ALGORITHMS[algorithm], KV_CACHE_ALGORITHMS[cache])
    assert verify_hf_checkpoint(made / name, tiny_weights, expected)["verified"] == "configuration, files and tensors"
    for copied in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "LICENSE"):
        assert (made / name / copied).read_bytes() == (tiny_weights / copied).read_bytes()


def test_put_together_again_all_tensors_equal_the_source_within_their_precision(
    modelopt: Toolchain, made: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    places = [tmp_path / "worst.json", made, tiny_weights]
    argv = [modelopt.python, SUPPORT / "compare_checkpoint.py", *places, *CONVERTED]
    run([str(part) for part in argv], env=modelopt.environment)
    worst = json.loads(places[0].read_text())
    assert worst.keys() == CONVERTED.keys()
    for name, tensors in worst.items():
        assert len(tensors) == 21
        quantized = {tensor for tensor in tensors if "_proj" in tensor and CONVERTED[name].get("qformat")}
        if MODELOPT_ALGORITHMS[CONVERTED[name].get("qformat", "full_prec")] in (None, "W8A16", "W4A16"):
            quantized = set()
        assert {tensor for tensor, difference in tensors.items() if difference} == quantized, name
        assert max(tensors.values()) <= 1, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_rotary_base_and_scaling_are_kept(made: Path, variant: str) -> None:
    facts_of(made, variant)
    verify_checkpoint(made / variant, made / f"{variant}-model", CheckpointExpectation("bfloat16", "FP8"))
    config = json.loads((made / variant / "config.json").read_text())
    assert config["rotary_base"] == 500000.0
    assert config["rotary_scaling"] == LLAMA_3_SCALING


@pytest.mark.parametrize("variant", VARIANTS)
def test_rotary_base_and_scaling_are_kept_in_a_hugging_face_model(made: Path, variant: str) -> None:
    facts_of(made, f"hf-{variant}")
    expected = HfExpectation("bfloat16", "FP8")
    verify_hf_checkpoint(made / f"hf-{variant}", made / f"{variant}-model", expected)
    config = json.loads((made / f"hf-{variant}" / "config.json").read_text())
    assert config["rope_theta"] == 500000.0
    assert config["rope_scaling"].items() >= LLAMA_3_SCALING.items()


@pytest.mark.parametrize("lost", ["rotary_base", "rotary_scaling"])
def test_a_real_checkpoint_that_lost_its_rotary_settings_is_refused(made: Path, tmp_path: Path, lost: str) -> None:
    facts_of(made, "llama3")
    spoilt = tmp_path / "spoilt"
    shutil.copytree(made / "llama3", spoilt)
    config = json.loads((spoilt / "config.json").read_text())
    del config[lost]
    (spoilt / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=lost):
        verify_checkpoint(spoilt, made / "llama3-model", CheckpointExpectation("bfloat16", "FP8"))


def test_a_checkpoint_is_not_taken_for_another_model(made: Path) -> None:
    facts_of(made, "llama3")
    with pytest.raises(CheckpointError, match="rotary_scaling is none"):
        verify_checkpoint(made / "fp8-tp2", made / "llama3-model", CheckpointExpectation("bfloat16", "FP8", None, 2))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_is_refused_in_one_line_and_nothing_is_written(made: Path, name: str) -> None:
    done = json.loads((made / "runs.json").read_text())[name]
    errors = [line for line in done["complained"].splitlines() if line.startswith("error: ")]
    assert done["status"] == 2
    assert len(errors) == 1
    assert REFUSED[name][1] in errors[0]
    assert not (made / "refused").exists()


def test_the_facts_say_what_was_done_with_what(made: Path) -> None:
    facts = facts_of(made, "fp8")
    assert facts["converter"] == "nvidia-modelopt 0.47.0, transformers 4.57.6"
    assert (facts["quant_algo"], facts["kv_cache_quant_algo"]) == ("FP8", "FP8")
    assert (facts["calibration"], facts["calibration_texts"]) == ("built-in prompts", 16)
    assert facts["calibration_tokens"] > 500
    assert facts.keys() >= {"seed", "device", "seconds", "peak_host_bytes", "peak_gpu_bytes"}
    assert facts_of(made, "bf16")["calibration"] == "none needed"


def test_the_same_seed_calibrates_with_the_same_texts_and_another_with_others(made: Path) -> None:
    facts = facts_of(made, "sample")
    assert (facts["calibration"], facts["calibration_texts"]) == ("texts.jsonl", 8)
    same, other = facts_of(made, "sample-again"), facts_of(made, "sample-other")
    assert (other["seed"], other["calibration_texts"]) == (7, 8)
    assert same["seed"] == facts["seed"]
    contents = [(made / name / "rank0.safetensors").read_bytes() for name in ("sample", "sample-again", "sample-other")]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]

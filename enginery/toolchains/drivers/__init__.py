"""Scripts that run in a toolchain's environment and import nothing of Enginery.

Their digests are in the keys of the steps that run them: any change of a script, also of a comment, makes those steps
run again.
"""

from functools import lru_cache
from pathlib import Path

from enginery.core.digests import file_digest, json_digest

DRIVERS = Path(__file__).parent
"""Their directory: `{drivers}` in a command."""

ANSWER_PROMPTS = DRIVERS / "answer_prompts.py"
"""Gets the answers to the validation prompts from an engine of ONNX Runtime GenAI."""

ANSWER_TENSORRT_LLM = DRIVERS / "answer_tensorrt_llm.py"
"""Gets the answers to the validation prompts from an engine or a checkpoint with TensorRT-LLM."""

ANSWER_REFERENCE = DRIVERS / "answer_reference.py"
"""Runs the original weights of a model with transformers: greedy answers, and what they predict at each token."""

REFERENCE_MODEL = DRIVERS / "reference_model.py"
"""Loads the original weights; the driver above imports it."""

BENCH_COMMON = DRIVERS / "bench_common.py"
"""Measures how fast an engine is; the two drivers below import it."""

BENCH_ONNX = DRIVERS / "bench_onnx.py"
"""Measures an engine of ONNX Runtime GenAI."""

BENCH_TENSORRT_LLM = DRIVERS / "bench_tensorrt_llm.py"
"""Measures an engine or a checkpoint with TensorRT-LLM."""

COMPARE_ONNX_WEIGHTS = DRIVERS / "compare_onnx_weights.py"
"""Compares the weights in an engine of ONNX Runtime with those of the model it was built from."""

WEIGHT_VALUES = DRIVERS / "weight_values.py"
"""How near weights are to the originals; the driver above imports it."""

DISTRIBUTION = DRIVERS / "distribution.py"
"""Compares an engine's predictions with a reference; the drivers that answer prompts import it."""


@lru_cache  # the plan of every target needs it
def driver_sha256(driver: Path) -> str:
    """The digest of a driver, for the keys of the steps that run it: of its file, and of the file that it imports."""
    imports = {
        ANSWER_PROMPTS.name: DISTRIBUTION,
        ANSWER_REFERENCE.name: REFERENCE_MODEL,
        ANSWER_TENSORRT_LLM.name: DISTRIBUTION,
        COMPARE_ONNX_WEIGHTS.name: WEIGHT_VALUES,
    }
    imported = imports.get(driver.name)
    return json_digest([file_digest(driver), file_digest(imported)]) if imported else file_digest(driver)

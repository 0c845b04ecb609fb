"""Scripts of ours that run in a toolchain's environment, not in Enginery's: each is one self-contained file."""

from functools import lru_cache
from pathlib import Path

from enginery.core.digests import file_digest

DRIVERS = Path(__file__).parent
"""Where they are: `{drivers}` in a command."""

ANSWER_PROMPTS = Path(__file__).parent / "answer_prompts.py"
"""Asks an engine of ONNX Runtime GenAI the validation prompts."""

ANSWER_TENSORRT_LLM = Path(__file__).parent / "answer_tensorrt_llm.py"
"""Asks an engine or a checkpoint the validation prompts with TensorRT-LLM."""


@lru_cache  # every target's plan asks for it
def driver_sha256(driver: Path) -> str:
    """The digest of a driver, for the keys of the steps that run it: a changed driver is another step."""
    return file_digest(driver)

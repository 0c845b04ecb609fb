"""Small Hugging Face checkpoints: the right files, no real weights."""

import json
from pathlib import Path
from typing import Any


def write_checkpoint(directory: Path, quantization: dict[str, Any] | None = None) -> Path:
    """Write a checkpoint as ModelOpt exports it, with this `quantization`."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (directory / "tokenizer.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"weights")
    if quantization is not None:
        (directory / "hf_quant_config.json").write_text(json.dumps({"quantization": quantization}))
    return directory

"""Small directories that look like models, for code that does not compute with the weights."""

import json
import struct
from pathlib import Path
from typing import Any


def safetensors(values: int = 64, name: str = "weight", fill: int = 0) -> bytes:
    """A real safetensors file with one float32 tensor of that many values."""
    size = 4 * values
    header = json.dumps({name: {"dtype": "F32", "shape": [values], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes((fill + index) % 251 for index in range(size))


def write(directory: Path, files: dict[str, Any]) -> Path:
    """Write files. Bytes and text are written unchanged, other values as JSON."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return directory


def model_directory(directory: Path) -> Path:
    """A model directory as on the Hub, also with files that no build needs."""
    return write(
        directory,
        {
            "config.json": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
            "generation_config.json": {"max_length": 64},
            "tokenizer.json": {"version": "1.0", "model": {"type": "BPE"}},
            "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
            "LICENSE": "Take it and be happy.",
            "USE_POLICY.md": "Be nice.",
            "README.md": "# A model",
            ".gitattributes": "*.safetensors filter=lfs",
            "original/consolidated.00.pth": b"pickle",
            "onnx/model.onnx": b"onnx",
            "pytorch_model.bin": b"pickle",
            "model.safetensors": safetensors(),
        },
    )


def sharded_model_directory(directory: Path, values: int = 64, shards: int = 3) -> Path:
    """A model whose weights are in several files with an index."""
    model_directory(directory)
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").unlink()
    weight_map = {}
    for number in range(1, shards + 1):
        name = f"model-{number:05}-of-{shards:05}.safetensors"
        weight_map[f"layer.{number}"] = name
        write(directory, {name: safetensors(values, f"layer.{number}", fill=number)})
    return write(directory, {"model.safetensors.index.json": {"metadata": {}, "weight_map": weight_map}})


def exported_checkpoint(directory: Path, quantization: dict[str, Any] | None = None) -> Path:
    """A Hugging Face checkpoint as ModelOpt exports it: the right files, no real weights."""
    config = {"architectures": ["LlamaForCausalLM"]}
    files: dict[str, Any] = {"config.json": config, "tokenizer.json": "{}", "model.safetensors": b"weights"}
    if quantization is not None:
        files["hf_quant_config.json"] = {"quantization": quantization}
    return write(directory, files)

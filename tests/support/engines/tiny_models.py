"""Builds small models with random weights, and generates a token: `python tiny_models.py DIRECTORY ARCHITECTURE ...`.

Runs in the onnxruntime toolchain. `results.json` in the directory gets what went wrong with each, empty if nothing did.
"""

import json
import os
import runpy
import shutil
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", ORT_DISABLE_TELEMETRY="1")

import onnxruntime_genai  # type: ignore[import-not-found,unused-ignore]
import transformers  # type: ignore[import-not-found,unused-ignore]

TOKENIZER = Path(__file__).parents[3] / "examples" / "tiny-llama" / "model"
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": json.loads((TOKENIZER / "config.json").read_text())["vocab_size"],
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
TYPES = {
    "Qwen3ForCausalLM": ("qwen3", {}),
    "GraniteForCausalLM": ("granite", {}),
    "Phi3ForCausalLM": ("phi3", {"original_max_position_embeddings": 256, "sliding_window": 256}),
    "Gemma3ForCausalLM": ("gemma3_text", {"sliding_window": 8}),
}


def weights(architecture: str, directory: Path) -> Path:
    """A model with random weights."""
    kind, more = TYPES[architecture]
    config = transformers.AutoConfig.for_model(kind, **SHAPE, **more)
    getattr(transformers, architecture)(config).save_pretrained(directory)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, directory)
    return directory


def build(model: Path, engine: Path) -> None:
    """Build the engine as the build step does."""
    sys.argv = ["builder", "-i", str(model), "-o", str(engine), "-c", f"{engine}.cache", "-p", "fp32", "-e", "cpu"]
    sys.argv += ["--extra_options", "hf_token=false", "hf_remote=false"]
    runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__")


def generate(engine: Path) -> None:
    """Generate some tokens."""
    parameters = onnxruntime_genai.GeneratorParams(onnxruntime_genai.Model(str(engine)))
    parameters.set_search_options(max_length=8, do_sample=False)
    generator = onnxruntime_genai.Generator(onnxruntime_genai.Model(str(engine)), parameters)
    generator.append_tokens([[1, 5, 9]])
    generator.generate_next_token()


def main(directory: Path, architectures: list[str]) -> None:
    """Try each architecture."""
    results = {}
    for architecture in architectures:
        engine = directory / f"{architecture}.engine"
        try:
            build(weights(architecture, directory / architecture), engine)
            generate(engine)
            results[architecture] = ""
        except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a builder raises
            results[architecture] = f"{type(error).__name__}: {error}"
    (directory / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

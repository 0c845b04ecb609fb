"""Makes a Llama of a given shape with random weights: as large as a real model, but without a licence.

    python3 benchmarks/random_llama.py DIRECTORY --shape 1b

Needs torch and safetensors, but not Enginery. The tokenizer is that of the example model; the answers of a random model
mean nothing.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found,unused-ignore]  # installed only on the machine that measures
from safetensors.torch import save_file  # type: ignore[import-not-found,unused-ignore]

SHAPES = {
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
}
"""The shapes of Llama 3.2 1B (but with an output layer of its own) and of Llama 3 8B."""
COMMON = {"num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192, "rms_norm_eps": 1e-05}
TOKENIZER = Path(__file__).parent.parent / "examples" / "tiny-llama" / "model"
SPREAD = 0.02
"""The standard deviation of the weights, as transformers initializes them."""


def config_of(shape: str) -> dict[str, Any]:
    """The model's `config.json`."""
    size = SHAPES[shape]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "rope_theta": 500000.0,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "tie_word_embeddings": False,
        "head_dim": size["hidden_size"] // size["num_attention_heads"],
        **size,
        **COMMON,
    }


def tensor_shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The names and shapes of all tensors."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        for name, rows in (("q_proj", hidden), ("k_proj", kv), ("v_proj", kv), ("o_proj", hidden)):
            yield f"{prefix}.self_attn.{name}.weight", (rows, hidden)
        yield f"{prefix}.mlp.gate_proj.weight", (wide, hidden)
        yield f"{prefix}.mlp.up_proj.weight", (wide, hidden)
        yield f"{prefix}.mlp.down_proj.weight", (hidden, wide)
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (config["vocab_size"], hidden)


def make(directory: Path, shape: str, seed: int) -> int:
    """Write the model and return the number of its weights."""
    directory.mkdir(parents=True)
    config = config_of(shape)
    (directory / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, directory / name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(seed)
    tensors = {name: _random(size, generator, device) for name, size in tensor_shapes(config)}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return sum(tensor.numel() for tensor in tensors.values())


def _random(shape: tuple[int, ...], generator: Any, device: str) -> Any:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    made = torch.empty(shape, dtype=torch.bfloat16, device=device)
    return made.normal_(0.0, SPREAD, generator=generator).cpu()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make a Llama with random weights.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--shape", choices=list(SHAPES), default="1b")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(f"{make(given.directory, given.shape, given.seed)} weights")

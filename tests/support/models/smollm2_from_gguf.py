"""Makes a Hugging Face directory of SmolLM2-135M-Instruct from its GGUF file.

    python smollm2_from_gguf.py MODEL.gguf DIRECTORY

Runs in a Python with the packages gguf, numpy, safetensors and tokenizers; needs nothing of Enginery. In the GGUF file,
the matrices have 4 bits and the embedding has 8. They are written as float32: these are the weights of this model.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFReader, dequantize  # type: ignore[import-not-found,unused-ignore]  # beside the toolchain
from safetensors.numpy import save_file  # type: ignore[import-not-found,unused-ignore]  # of the toolchain
from tokenizers import (  # type: ignore[import-not-found,unused-ignore]  # of the toolchain
    AddedToken,
    Tokenizer,
    decoders,
    models,
    pre_tokenizers,
)

Weights = npt.NDArray[np.float32]

WHOLE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
IN_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL = 3
"""GGUF's type of a token that is no text."""
SPECIAL = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}


def main(source: Path, directory: Path) -> None:
    """Write the weights, the configuration and the tokenizer."""
    reader = GGUFReader(source)
    facts = {name: field.contents() for name, field in reader.fields.items()}
    save_file(weights(reader, facts), directory / "model.safetensors", metadata={"format": "pt"})
    tokenizer(facts).save(str(directory / "tokenizer.json"))
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    files = {
        "config.json": configuration(facts) | ends,
        "generation_config.json": ends,
        "tokenizer_config.json": tokenizer_configuration(facts),
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    for path in directory.iterdir():
        path.chmod(0o644)


def weights(reader: Any, facts: dict[str, Any]) -> dict[str, Weights]:
    """All tensors under the names of transformers, in float32."""
    heads = {"attn_q": facts["llama.attention.head_count"], "attn_k": facts["llama.attention.head_count_kv"]}
    found = {}
    for tensor in reader.tensors:
        values = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if tensor.name in WHOLE:
            found[WHOLE[tensor.name]] = values
            continue
        _, layer, part, _ = tensor.name.split(".")
        ordered = in_halves(values, heads[part]) if part in heads else values
        found[f"model.layers.{layer}.{IN_LAYER[part]}.weight"] = np.ascontiguousarray(ordered)
    return found


def in_halves(values: Weights, heads: int) -> Weights:
    """Rows of queries or keys as transformers wants them: GGUF has the two rows that rotate together side by side."""
    return values.reshape(heads, -1, 2, values.shape[1]).swapaxes(1, 2).reshape(values.shape)


def configuration(facts: dict[str, Any]) -> dict[str, Any]:
    """The content of config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": facts["llama.embedding_length"],
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": facts["llama.attention.head_count"],
        "num_key_value_heads": facts["llama.attention.head_count_kv"],
        "head_dim": facts["llama.rope.dimension_count"],
        "max_position_embeddings": facts["llama.context_length"],
        "rms_norm_eps": 1e-5,
        "rope_theta": float(facts["llama.rope.freq_base"]),
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "vocab_size": facts["llama.vocab_size"],
    }


def tokenizer(facts: dict[str, Any]) -> Tokenizer:
    """The byte-level tokenizer, in which each digit is a word."""
    tokens = facts["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in facts["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control_tokens(facts)])
    return made


def tokenizer_configuration(facts: dict[str, Any]) -> dict[str, Any]:
    """The content of tokenizer_config.json, with the chat template."""
    numbers = {token: number for number, token in enumerate(facts["tokenizer.ggml.tokens"])}
    return {
        **SPECIAL,
        "pad_token": SPECIAL["eos_token"],
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": facts["llama.context_length"],
        "added_tokens_decoder": {
            str(numbers[token]): {"content": token, "special": True, "normalized": False}
            for token in control_tokens(facts)
        },
        "chat_template": facts["tokenizer.chat_template"],
    }


def control_tokens(facts: dict[str, Any]) -> list[str]:
    """The tokens that are no text, such as `<|im_start|>`."""
    pairs = zip(facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"], strict=True)
    return [token for token, kind in pairs if kind == CONTROL]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

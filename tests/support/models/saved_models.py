"""Writes the configuration and the tensors of small models of many architectures, as transformers saves them, as JSON.

It runs with the Python of a toolchain that has transformers and PyTorch:

    PYTHON tests/support/models/saved_models.py saved.json
"""

import json
import struct
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, logging

TOKENS = {"vocab_size": 96, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BASE = TOKENS | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
GPT2 = TOKENS | {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
MIXTURE = BASE | {"num_local_experts": 4, "num_experts_per_tok": 2}
QWEN_MOE = BASE | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
QWEN2_MOE = QWEN_MOE | {"shared_expert_intermediate_size": 40}
DEEPSEEK = BASE | {
    "num_key_value_heads": 4,
    "moe_intermediate_size": 24,
    "n_routed_experts": 4,
    "n_shared_experts": 2,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 20,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
}
GPT_NEO = TOKENS | {
    "hidden_size": 32,
    "num_layers": 3,
    "num_heads": 4,
    "attention_types": [[["global"], 3]],
    "max_position_embeddings": 64,
}
OPT = TOKENS | {
    "hidden_size": 32,
    "word_embed_proj_dim": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
FALCON = TOKENS | {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
BIASES = {"attention_bias": True, "mlp_bias": True}
LIKE_LLAMA = (
    *("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "gpt_neox", "starcoder2"),
    *("stablelm", "olmo", "olmo2", "olmo3", "granite", "cohere", "cohere2", "glm", "glm4", "nemotron", "smollm3"),
    *("exaone4", "helium", "ernie4_5", "seed_oss", "arcee", "apertus"),
)

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **{kind: (kind, BASE) for kind in LIKE_LLAMA},
    "mixtral": ("mixtral", MIXTURE),
    "phimoe": ("phimoe", MIXTURE),
    "granitemoe": ("granitemoe", MIXTURE),
    "gpt_oss": ("gpt_oss", MIXTURE | {"head_dim": 8}),
    "olmoe": ("olmoe", BASE | {"num_experts": 4, "num_experts_per_tok": 2}),
    "qwen2_moe": ("qwen2_moe", QWEN2_MOE),
    "qwen2_moe, a dense layer": ("qwen2_moe", QWEN2_MOE | {"mlp_only_layers": [1]}),
    "qwen3_moe": ("qwen3_moe", QWEN_MOE),
    "qwen3_moe, every second layer": ("qwen3_moe", QWEN_MOE | {"decoder_sparse_step": 2}),
    "deepseek_v2": ("deepseek_v2", DEEPSEEK),
    "deepseek_v3": ("deepseek_v3", DEEPSEEK | {"n_group": 2}),
    "deepseek_v3, whole queries": ("deepseek_v3", DEEPSEEK | {"n_group": 2, "q_lora_rank": None}),
    "deepseek_v3, biases": ("deepseek_v3", DEEPSEEK | {"n_group": 2, "attention_bias": True}),
    "gpt2": ("gpt2", GPT2),
    "gpt2, own width": ("gpt2", GPT2 | {"n_inner": 80}),
    "gptj": ("gptj", GPT2 | {"rotary_dim": 4}),
    "codegen": ("codegen", GPT2 | {"rotary_dim": 4}),
    "gpt_bigcode": ("gpt_bigcode", GPT2),
    "gpt_bigcode, all heads": ("gpt_bigcode", GPT2 | {"multi_query": False}),
    "gpt_neo": ("gpt_neo", GPT_NEO),
    "opt": ("opt", OPT),
    "opt, projected": ("opt", OPT | {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "opt, no biases": ("opt", OPT | {"enable_bias": False}),
    "bloom": ("bloom", TOKENS | {"hidden_size": 32, "n_layer": 3, "n_head": 4}),
    "falcon": ("falcon", FALCON),
    "falcon, new": ("falcon", FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon, one norm": (
        "falcon",
        FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
    ),
    "falcon, in sequence": ("falcon", FALCON | {"multi_query": False, "parallel_attn": False}),
    "falcon, biases": ("falcon", FALCON | {"bias": True, "alibi": True}),
    "mpt": ("mpt", TOKENS | {"d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 64}),
    "llama, biases": ("llama", BASE | BIASES),
    "llama, tied": ("llama", BASE | {"tie_word_embeddings": True}),
    "llama, wide heads": ("llama", BASE | {"head_dim": 16}),
    "qwen3, biases": ("qwen3", BASE | {"attention_bias": True}),
    "phi, norms": ("phi", BASE | {"qk_layernorm": True}),
    "stablelm, biases": ("stablelm", BASE | {"use_qkv_bias": True}),
    "stablelm, norms": ("stablelm", BASE | {"qk_layernorm": True}),
    "stablelm, in parallel": ("stablelm", BASE | {"use_parallel_residual": True}),
    "gpt_neox, no biases": ("gpt_neox", BASE | {"attention_bias": False}),
    "starcoder2, no biases": ("starcoder2", BASE | {"use_bias": False}),
    "cohere, norms": ("cohere", BASE | {"use_qk_norm": True}),
    "granite, biases": ("granite", BASE | BIASES),
    "nemotron, biases": ("nemotron", BASE | BIASES),
    "smollm3, biases": ("smollm3", BASE | BIASES),
}


def saved(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A model as `save_pretrained` writes it, and the names of its tensors in memory."""
    config = AutoConfig.for_model(kind, **settings)
    model = AutoModelForCausalLM.from_config(config)
    with TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        written = json.loads((Path(directory) / "config.json").read_text())
        content = (Path(directory) / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    named = {"architectures": written["architectures"], "model_type": kind}
    return {
        "config": written,
        "short_config": {**settings, **named},
        "tensors": {name: about["shape"] for name, about in header.items()},
        "in_memory": {name: list(tensor.shape) for name, tensor in model.state_dict().items()},
    }


if __name__ == "__main__":
    logging.set_verbosity_error()
    Path(sys.argv[1]).write_text(json.dumps({name: saved(*model) for name, model in MODELS.items()}))

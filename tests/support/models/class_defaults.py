"""Prints what transformers' configuration classes have where a `config.json` leaves a setting out, as JSON.

It runs with the Python of a toolchain that has transformers 5. `enginery/models/defaults.json` is its output:

    PYTHON tests/support/models/class_defaults.py > enginery/models/defaults.json
"""

import json
import sys
from typing import Any

from transformers import CONFIG_MAPPING, __version__
from transformers.models.auto import modeling_auto

SETTINGS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size"),
    *("intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim", "max_position_embeddings", "tie_word_embeddings"),
    *("attention_bias", "attention_out_bias", "mlp_bias", "use_bias", "bias", "use_qkv_bias", "enable_bias"),
    *("hidden_act", "hidden_activation", "activation_function", "rotary_dim", "alibi", "position_embedding_type"),
    *("sliding_window", "use_sliding_window", "max_window_layers", "attention_chunk_size"),
    *("num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size"),
    *("n_shared_experts", "shared_expert_intermediate_size", "first_k_dense_replace", "decoder_sparse_step"),
    *("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "is_encoder_decoder"),
    *("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps", "intermediate_size_mlp"),
    *("multi_query", "parallel_attn", "new_decoder_architecture", "num_kv_heads", "interleave_moe_layer_step"),
    *("moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval", "moe_num_shared_experts"),
)
PARTS = ("gemma3", "gemma3n", "gemma4", "llama4", "mistral3", "mllama", "llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
ENCODERS = ("t5", "mt5", "bart", "mbart", "whisper", "bert", "roberta", "deberta-v2", "pegasus", "marian", "m2m_100")
SIMPLE = (bool, int, float, str)


def described(model_type: str) -> dict[str, Any]:
    """The settings of a class with all its defaults, and the names of its models."""
    kind = CONFIG_MAPPING[model_type]
    made = kind()
    found = {name: value for name in SETTINGS if isinstance(value := _stated(kind, name), SIMPLE)}
    layers = _pattern(getattr(made, "layer_types", None))
    rope = getattr(made, "rope_parameters", None)
    return {
        **_tied(made),
        **found,
        **({"layer_types": layers} if layers else {}),
        **({"rope_parameters": rope} if rope else {}),
    }


def _stated(kind: type, name: str) -> object:
    """What the class itself states. Some classes compute a setting from others when the file leaves it out."""
    other = getattr(kind, "attribute_map", {}).get(name, name)
    return getattr(kind, other, getattr(kind, name, None))


def _tied(made: object) -> dict[str, bool]:
    """Encoder-decoder models decide this when they are made."""
    tied = getattr(made, "tie_word_embeddings", None)
    return {"tie_word_embeddings": tied} if isinstance(tied, bool) else {}


def _pattern(layers: list[str] | None) -> list[str]:
    """The shortest list that gives the kinds of all layers when it is repeated; empty if they do not repeat."""
    if not layers or set(layers) == {"full_attention"}:
        return []
    sizes = range(1, len(layers) // 2 + 1)
    found = (layers[:size] for size in sizes if all(kind == layers[n % size] for n, kind in enumerate(layers)))
    return next(found, [])


def main() -> None:
    """Print the defaults of all classes."""
    models = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    texts = [f"{part}_text" for part in PARTS if f"{part}_text" in CONFIG_MAPPING]
    names = sorted({*models, *PARTS, *texts, *ENCODERS, "mllama_text_model"} & set(CONFIG_MAPPING))
    classes = {}
    for name in names:
        try:
            classes[name] = described(name)
        except Exception as error:  # noqa: BLE001  a class that needs arguments or a library; each has its own error
            sys.stderr.write(f"{name}: {error!r}\n")
    architectures = {model if isinstance(model, str) else model[0]: name for name, model in models.items()}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(about)}" for name, about in classes.items())
    known = ",\n".join(f"  {json.dumps(name)}: {json.dumps(kind)}" for name, kind in sorted(architectures.items()))
    sys.stdout.write(
        f'{{"transformers": "{__version__}",\n"classes": {{\n{lines}\n}},\n"architectures": {{\n{known}\n}}}}\n'
    )


if __name__ == "__main__":
    main()

"""The fleet of example specs: public models with their real dimensions, each with usual build options.

The golden files of commands are made from them for every release, and the plan's checks are tested with them. The
dimensions come from the models' published `config.json`.
"""

from dataclasses import dataclass
from typing import Any

from enginery.sources.model_facts import ModelFacts
from enginery.spec.spec import Spec, parse_spec


@dataclass(frozen=True)
class Example:
    """One example of the fleet.

    Attributes:
        name: names its spec and its golden files.
        config: the fields of the model's `config.json` that matter for a build.
        spec: the spec as plain data, with one target that has no release yet.
        family: the directory of the release's converter, such as `llama`.
    """

    name: str
    config: dict[str, Any]
    spec: dict[str, Any]
    family: str

    @property
    def model(self) -> ModelFacts:
        """The model's facts. The size of its files follows from its shape."""
        shape = ModelFacts.from_config(self.config)
        width = 4 if shape.dtype == "float32" else 2
        return ModelFacts.from_config(self.config, weight_bytes=width * shape.parameters)

    @property
    def dtype(self) -> str:
        """The number format of the activations: the precision if that is a float format, else the model's format."""
        precision = self.spec["targets"][0]["precision"]
        return str(precision if "float" in precision else self.config["torch_dtype"])

    def spec_for(self, release: str) -> Spec:
        """The spec with its one target for a release."""
        targets = [{**target, "release": release} for target in self.spec["targets"]]
        return parse_spec({**self.spec, "targets": targets})


def _llama(**changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
        "rope_scaling": None,
        "rms_norm_eps": 1e-05,
        "tie_word_embeddings": False,
    } | changes


LLAMA_3_8B = _llama()
LLAMA_3_70B = _llama(hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64)
LLAMA_3_1_8B = _llama(
    max_position_embeddings=131072,
    rope_scaling={
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
)
LLAMA_2_7B = _llama(
    torch_dtype="float16",
    intermediate_size=11008,
    num_key_value_heads=32,
    vocab_size=32000,
    max_position_embeddings=4096,
    rope_theta=10000.0,
)
MISTRAL_7B = _llama(
    architectures=["MistralForCausalLM"],
    model_type="mistral",
    vocab_size=32000,
    max_position_embeddings=32768,
    rope_theta=1000000.0,
    sliding_window=None,
)
MIXTRAL_8X7B = MISTRAL_7B | {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "router_aux_loss_coef": 0.02,
}
QWEN2_7B = _llama(
    architectures=["Qwen2ForCausalLM"],
    model_type="qwen2",
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    vocab_size=152064,
    max_position_embeddings=32768,
    rope_theta=1000000.0,
    rms_norm_eps=1e-06,
)
QWEN2_72B = QWEN2_7B | {
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
}
GEMMA_7B = {
    "architectures": ["GemmaForCausalLM"],
    "model_type": "gemma",
    "torch_dtype": "bfloat16",
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "vocab_size": 256000,
    "max_position_embeddings": 8192,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": True,
}
PHI_2 = {
    "architectures": ["PhiForCausalLM"],
    "model_type": "phi",
    "torch_dtype": "float16",
    "hidden_act": "gelu_new",
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 51200,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.4,
    "layer_norm_eps": 1e-05,
    "tie_word_embeddings": False,
}


def _example(  # noqa: PLR0913  what makes an example
    name: str,
    config: dict[str, Any],
    repository: str,
    precision: str,
    gpu: str = "H100-SXM5-80GB",
    *,
    tp: int = 1,
    pp: int = 1,
    family: str = "llama",
    build: dict[str, Any],
    **sections: Any,
) -> Example:
    target = {"name": "engine", "gpu": gpu, "backend": "tensorrt", "precision": precision}
    split = {"tensor_parallel": tp, "pipeline_parallel": pp}
    prompts = [{"prompt": "How do I count to nine in French?", "contains": "neuf"}]
    spec = {
        "name": name,
        "source": {"huggingface": repository},
        "targets": [{**target, **split}],
        "build": build,
        "validation": {"prompts": prompts},
        **sections,
    }
    return Example(name, config, spec, family)


FLEET: tuple[Example, ...] = (
    # Exactly the tutorial.
    _example(
        "llama-3-8b-instruct",
        LLAMA_3_8B,
        "meta-llama/Meta-Llama-3-8B-Instruct",
        "bfloat16",
        build={"gpt_attention_plugin": "bfloat16", "gemm_plugin": "bfloat16"},
    ),
    _example(
        "llama-3-8b-fp8",
        LLAMA_3_8B,
        "meta-llama/Meta-Llama-3-8B-Instruct",
        "fp8",
        build={
            "max_batch_size": 64,
            "max_input_len": 4096,
            "max_output_len": 1024,
            "max_num_tokens": 8192,
            "gpt_attention_plugin": "bfloat16",
            "gemm_plugin": "disable",
            "use_paged_context_fmha": True,
            "use_fp8_context_fmha": True,
        },
    ),
    _example(
        "llama-3-70b-tp8",
        LLAMA_3_70B,
        "meta-llama/Meta-Llama-3-70B-Instruct",
        "bfloat16",
        tp=8,
        build={
            "max_batch_size": 128,
            "max_input_len": 4096,
            "max_seq_len": 8192,
            "max_num_tokens": 8192,
            "gpt_attention_plugin": "bfloat16",
            "gemm_plugin": "bfloat16",
            "kv_cache_type": "paged",
            "remove_input_padding": True,
            "context_fmha": True,
            "workers": 8,
        },
    ),
    _example(
        "llama-3-70b-fp8-tp4",
        LLAMA_3_70B,
        "meta-llama/Meta-Llama-3-70B-Instruct",
        "fp8",
        tp=4,
        build={
            "max_batch_size": 64,
            "max_input_len": 6144,
            "max_seq_len": 8192,
            "max_num_tokens": 8192,
            "gpt_attention_plugin": "auto",
            "gemm_plugin": "fp8",
            "multiple_profiles": True,
            "reduce_fusion": True,
            "workers": 4,
        },
    ),
    _example(
        "llama-3-70b-awq-tp2",
        LLAMA_3_70B,
        "meta-llama/Meta-Llama-3-70B-Instruct",
        "int4_awq",
        "A100-SXM4-80GB",
        tp=2,
        build={"max_batch_size": 16, "max_seq_len": 8192, "gpt_attention_plugin": "auto", "gemm_plugin": "auto"},
        convert={"calibration": {"size": 256}},
    ),
    _example(
        "llama-3.1-8b-long",
        LLAMA_3_1_8B,
        "meta-llama/Llama-3.1-8B-Instruct",
        "bfloat16",
        "H200-SXM5-141GB",
        build={
            "max_batch_size": 8,
            "max_input_len": 122880,
            "max_seq_len": 131072,
            "max_num_tokens": 16384,
            "gpt_attention_plugin": "bfloat16",
            "gemm_plugin": "bfloat16",
            "use_paged_context_fmha": True,
        },
    ),
    _example(
        "llama-2-7b-lora",
        LLAMA_2_7B,
        "meta-llama/Llama-2-7b-chat-hf",
        "float16",
        "A100-SXM4-40GB",
        build={
            "max_batch_size": 32,
            "max_input_len": 1024,
            "max_output_len": 1024,
            "gemm_plugin": "float16",
            "lora_plugin": "float16",
            "lora_target_modules": ["attn_q", "attn_k", "attn_v"],
            "max_lora_rank": 16,
        },
    ),
    _example(
        "llama-2-7b-int8-wo",
        LLAMA_2_7B,
        "meta-llama/Llama-2-7b-chat-hf",
        "int8_wo",
        "A10",
        build={"max_batch_size": 8, "max_output_len": 512, "gemm_plugin": "float16", "context_fmha_fp32_acc": False},
    ),
    _example(
        "mistral-7b",
        MISTRAL_7B,
        "mistralai/Mistral-7B-Instruct-v0.2",
        "bfloat16",
        "L40S",
        build={
            "max_batch_size": 16,
            "max_input_len": 8192,
            "max_seq_len": 10240,
            "gpt_attention_plugin": "bfloat16",
            "gemm_plugin": "bfloat16",
            "max_beam_width": 4,
            "kv_cache_type": "paged",
            "tokens_per_block": 64,
        },
    ),
    _example(
        "mixtral-8x7b-tp2",
        MIXTRAL_8X7B,
        "mistralai/Mixtral-8x7B-Instruct-v0.1",
        "bfloat16",
        tp=2,
        build={
            "max_batch_size": 32,
            "max_input_len": 4096,
            "max_output_len": 1024,
            "gpt_attention_plugin": "bfloat16",
            "gemm_plugin": "bfloat16",
            "moe_plugin": "bfloat16",
            "workers": 2,
        },
    ),
    _example(
        "mixtral-8x7b-tp2-pp2",
        MIXTRAL_8X7B,
        "mistralai/Mixtral-8x7B-Instruct-v0.1",
        "float16",
        tp=2,
        pp=2,
        build={"max_batch_size": 32, "gemm_plugin": "float16", "pp_reduce_scatter": True, "workers": 4},
    ),
    _example(
        "qwen2-7b",
        QWEN2_7B,
        "Qwen/Qwen2-7B-Instruct",
        "bfloat16",
        "A100-SXM4-80GB",
        family="qwen",
        build={
            "max_batch_size": 32,
            "max_input_len": 4096,
            "max_seq_len": 6144,
            "gpt_attention_plugin": "bfloat16",
            "gemm_plugin": "bfloat16",
            "gather_context_logits": True,
            "gather_generation_logits": True,
            "logits_dtype": "float32",
        },
    ),
    _example(
        "qwen2-72b-awq-tp4",
        QWEN2_72B,
        "Qwen/Qwen2-72B-Instruct",
        "int4_awq",
        "L40S",
        tp=4,
        family="qwen",
        build={"max_batch_size": 8, "max_seq_len": 8192, "gemm_plugin": "auto", "gpt_attention_plugin": "auto"},
    ),
    _example(
        "gemma-7b",
        GEMMA_7B,
        "google/gemma-7b-it",
        "bfloat16",
        "A100-SXM4-40GB",
        family="gemma",
        build={
            "max_batch_size": 16,
            "max_input_len": 3000,
            "max_output_len": 100,
            "gpt_attention_plugin": "bfloat16",
            "gemm_plugin": "bfloat16",
            "kv_cache_type": "continuous",
        },
    ),
    _example(
        "phi-2",
        PHI_2,
        "microsoft/phi-2",
        "float16",
        "A10",
        family="phi",
        build={"max_batch_size": 8, "max_input_len": 1024, "max_output_len": 512, "gemm_plugin": "float16"},
    ),
    _example(
        "phi-2-draft",
        PHI_2,
        "microsoft/phi-2",
        "float16",
        "L4",
        family="phi",
        build={
            "max_batch_size": 4,
            "gemm_plugin": "float16",
            "speculative_decoding_mode": "draft_tokens_external",
            "max_draft_len": 5,
            "use_paged_context_fmha": True,
            "weight_streaming": False,
        },
    ),
)
"""Sixteen examples, the tutorial's first."""

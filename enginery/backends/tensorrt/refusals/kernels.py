"""Rules about attention, MLPs and experts, and about GPUs that lack their kernels."""

from enginery.backends.tensorrt.build_defaults import EngineOptions
from enginery.backends.tensorrt.refusals.options import (
    ANY_WEIGHT_ONLY,
    MLP_MODULES,
    WITH_FP8,
    architecture,
    has_attention,
    has_experts,
    has_gated_mlp,
    off,
    on,
    on_blackwell,
    on_first_blackwell,
    turned_off,
)
from enginery.backends.tensorrt.refusals.rule import (
    AWQ_FP8,
    FORMAT,
    FP8,
    GPU,
    INT8_SQ,
    MODEL,
    PAGED,
    TOGETHER,
    VALUE,
    Rule,
)
from enginery.spec import FLOATS

FP8_ATTENTION = "use_fp8_context_fmha"
SWIGLU, FAST_SWIGLU, FUSED = "gemm_swiglu_plugin", "low_latency_gemm_swiglu_plugin", "use_fused_mlp"
WITHOUT_SWIGLU = f"leave {SWIGLU} out"
HOPPER = ("gemm_swiglu_plugin", "fp8_rowwise_gemm_plugin", "low_latency_gemm_plugin", "low_latency_gemm_swiglu_plugin")
"""Plugins that 1.3.0rc3 refuses on compute capability 10.0."""


def _paged(one: EngineOptions) -> bool:
    return on(one, "use_paged_context_fmha")


def _fp8_cache(one: EngineOptions) -> bool:
    return one.kv_cache == "fp8"


def _adapted_mlp(one: EngineOptions) -> bool:
    return on(one, "lora_plugin") and bool(MLP_MODULES & set(one.options.lora_target_modules or ()))


def _not(field: str) -> str:
    return f"set {field} to false"


ATTENTION_RULES = (
    Rule(
        *(f"{PAGED} with an int8 KV cache", FORMAT, f"build.{PAGED}"),
        lambda one: _paged(one) and one.kv_cache == "int8",
        f"{_not(PAGED)}, or leave convert.kv_cache out",
    ),
    Rule(
        *(f"{PAGED} with an fp8 KV cache and fp8 weights", FORMAT, f"build.{PAGED}"),
        lambda one: _paged(one) and _fp8_cache(one) and one.precision == FP8,
        _not(PAGED),
    ),
    Rule(
        *(f"{PAGED} with an fp8 KV cache and weights that are not fp8", FORMAT, f"build.{PAGED}"),
        lambda one: _paged(one) and _fp8_cache(one) and bool(one.precision) and one.precision not in WITH_FP8,
        f"{_not(PAGED)}, or leave convert.kv_cache out",
    ),
    Rule(
        *(f"{PAGED} with an fp8 KV cache and w4a8_awq weights", FORMAT, f"build.{PAGED}"),
        lambda one: _paged(one) and _fp8_cache(one) and one.precision == AWQ_FP8,
        f"{_not(PAGED)}, or leave convert.kv_cache out",
    ),
    Rule(
        *(f"{PAGED} without {FP8_ATTENTION}, with an fp8 KV cache", FORMAT, f"build.{FP8_ATTENTION}"),
        lambda one: _paged(one) and _fp8_cache(one) and one.precision == FP8 and off(one, FP8_ATTENTION),
    ),
    Rule(
        *(f"{FP8_ATTENTION} with weights that are not fp8", FORMAT, f"build.{FP8_ATTENTION}"),
        lambda one: bool(one.options.use_fp8_context_fmha) and bool(one.precision) and one.precision not in WITH_FP8,
        f"{_not(FP8_ATTENTION)}, or use precision: fp8",
    ),
    Rule(
        *(f"{FP8_ATTENTION} with w4a8_awq weights", FORMAT, f"build.{FP8_ATTENTION}"),
        lambda one: bool(one.options.use_fp8_context_fmha) and one.precision == AWQ_FP8,
        _not(FP8_ATTENTION),
    ),
    Rule(
        *(f"{FP8_ATTENTION} with {PAGED} and a KV cache that is not fp8", FORMAT, f"build.{FP8_ATTENTION}"),
        lambda one: (
            bool(one.options.use_fp8_context_fmha)
            and _paged(one)
            and not _fp8_cache(one)
            and one.precision in WITH_FP8
            and not turned_off(one, "context_fmha")
        ),
    ),
    Rule(
        *(f"{PAGED} without context_fmha", TOGETHER, f"build.{PAGED}"),
        lambda one: _paged(one) and turned_off(one, "context_fmha"),
    ),
    Rule(
        *("no gpt_attention_plugin with remove_input_padding", TOGETHER, "build.gpt_attention_plugin"),
        lambda one: has_attention(one) and off(one, "gpt_attention_plugin") and on(one, "remove_input_padding"),
        "set remove_input_padding to false, or gpt_attention_plugin to auto",
    ),
    Rule(
        *("no gpt_attention_plugin with a paged KV cache", TOGETHER, "build.gpt_attention_plugin"),
        lambda one: (
            has_attention(one)
            and off(one, "gpt_attention_plugin")
            and one.options.kv_cache_type not in {"continuous", "disabled"}
        ),
        "set kv_cache_type to continuous, or gpt_attention_plugin to auto",
    ),
)

MLP_RULES = (
    *(
        Rule(
            *(f"{plugin} without {FUSED}", TOGETHER, f"build.{plugin}"),
            lambda one, plugin=plugin: on(one, plugin) and off(one, FUSED),  # type: ignore[misc]
            f"set {FUSED} to true, or leave {plugin} out",
        )
        for plugin in (SWIGLU, FAST_SWIGLU)
    ),
    *(
        Rule(
            *(f"{plugin} with weights that are not quantized", FORMAT, f"build.{plugin}"),
            lambda one, plugin=plugin: has_gated_mlp(one) and on(one, plugin) and one.precision in FLOATS,  # type: ignore[misc]
            f"leave {plugin} out, or use precision: fp8",
        )
        for plugin in (SWIGLU, FAST_SWIGLU)
    ),
    Rule(
        *(f"{SWIGLU} with int8 or int4 weights", FORMAT, f"build.{SWIGLU}"),
        lambda one: has_gated_mlp(one) and on(one, SWIGLU) and on(one, FUSED) and one.precision in ANY_WEIGHT_ONLY,
        WITHOUT_SWIGLU,
    ),
    Rule(
        *(f"{SWIGLU} with SmoothQuant", FORMAT, f"build.{SWIGLU}"),
        lambda one: on(one, SWIGLU) and on(one, FUSED) and one.precision == INT8_SQ,
        WITHOUT_SWIGLU,
    ),
    Rule(
        *(f"{SWIGLU} with activations that are not float16", FORMAT, f"build.{SWIGLU}"),
        lambda one: (
            has_gated_mlp(one)
            and on(one, SWIGLU)
            and on(one, FUSED)
            and one.precision == FP8
            and one.dtype not in {"", "float16"}
        ),
        f"{WITHOUT_SWIGLU}, or use a release from 0.14.0 on",
    ),
    Rule(
        *(f"{SWIGLU} with LoRA of the MLP", TOGETHER, f"build.{SWIGLU}"),
        lambda one: has_gated_mlp(one) and on(one, SWIGLU) and one.precision == FP8 and _adapted_mlp(one),
        f"{WITHOUT_SWIGLU}, or the MLP out of lora_target_modules",
    ),
    Rule(
        *(f"{FUSED} with int8 or int4 weights", FORMAT, f"build.{FUSED}"),
        lambda one: has_gated_mlp(one) and bool(one.options.use_fused_mlp) and one.precision in ANY_WEIGHT_ONLY,
        f"leave {FUSED} out",
    ),
    Rule(
        *(f"{FUSED} for an activation that is not SiLU", MODEL, f"build.{FUSED}"),
        lambda one: on(one, FUSED) and architecture(one) == "GemmaForCausalLM" and one.precision in {*FLOATS, FP8},
        f"leave {FUSED} out",
    ),
    Rule(
        *(f"{FUSED} turned off", VALUE, f"build.{FUSED}"),
        lambda one: turned_off(one, FUSED) and one.precision in {*FLOATS, FP8},
    ),
    Rule(
        *("no moe_plugin with int8 or int4 weights", FORMAT, "build.moe_plugin"),
        lambda one: has_experts(one) and off(one, "moe_plugin") and one.precision in ANY_WEIGHT_ONLY,
        "set moe_plugin to auto",
    ),
    Rule(
        *("fast_build with int8 or int4 weights", FORMAT, "build.fast_build"),
        lambda one: on(one, "fast_build") and one.precision in {*ANY_WEIGHT_ONLY, INT8_SQ},
        "set fast_build to false",
    ),
    Rule(
        *("strongly_typed turned off, with fp8", FORMAT, "build.strongly_typed"),
        lambda one: turned_off(one, "strongly_typed") and (one.precision == FP8 or _fp8_cache(one)),
    ),
)

GPU_RULES = (
    Rule(
        *("int8 or int4 weights on Blackwell", GPU, "precision"),
        lambda one: on_blackwell(one) and one.precision in ANY_WEIGHT_ONLY,
        "use fp8 or nvfp4, or another GPU",
    ),
    Rule(
        *("SmoothQuant on Blackwell", GPU, "precision"),
        lambda one: on_blackwell(one) and one.precision == INT8_SQ,
        "use fp8 or nvfp4, or another GPU",
    ),
    Rule(
        *("an int8 KV cache on Blackwell", GPU, "convert.kv_cache"),
        lambda one: on_blackwell(one) and one.kv_cache == "int8",
        "use auto or fp8",
    ),
    Rule(
        *("no moe_plugin on Blackwell", GPU, "build.moe_plugin"),
        lambda one: (
            one.gpu is not None and one.gpu.capability >= (10, 0) and has_experts(one) and off(one, "moe_plugin")
        ),
        "set moe_plugin to auto",
    ),
    *(
        Rule(
            *(f"{plugin} on Blackwell", GPU, f"build.{plugin}"),
            lambda one, plugin=plugin: on_first_blackwell(one) and on(one, plugin),  # type: ignore[misc]
            f"leave {plugin} out",
        )
        for plugin in HOPPER
    ),
)

"""What the rules ask of an engine's options: values with the release's defaults, kinds of weights, kinds of models."""

from typing import Any

from packaging.version import Version

from enginery.backends.tensorrt.build_defaults import EngineOptions, unset_value
from enginery.releases import models, refusal
from enginery.spec import Precision

LLAMA, MIXTRAL, GEMMA_2 = "LlamaForCausalLM", "MixtralForCausalLM", "Gemma2ForCausalLM"
GATED = frozenset({LLAMA, "MistralForCausalLM", "InternLMForCausalLM", "InternLM2ForCausalLM", "Qwen2ForCausalLM"})
"""Architectures whose MLP is a gated one with SiLU in every release, which can be fused."""
ANY_WEIGHT_ONLY = frozenset(
    {Precision.INT8_WEIGHT_ONLY, Precision.INT4_WEIGHT_ONLY, Precision.INT4_AWQ, Precision.W4A8_AWQ}
)
"""Precisions that TensorRT-LLM calls weight-only; it counts w4a8_awq among them."""
WITH_FP8 = frozenset({Precision.FP8, Precision.W4A8_AWQ, Precision.NVFP4})
"""Precisions whose arithmetic is in fp8 or fp4."""
BY_MODELOPT = frozenset({Precision.FP8, Precision.INT4_AWQ, Precision.W4A8_AWQ, Precision.NVFP4})
"""Precisions whose checkpoint ModelOpt writes. Under which architecture it does so was not read."""
LLAMA_ALWAYS = Version("0.11.0")
"""The release whose converter calls every model of the family Llama."""
BLACKWELL = range(100, 120)
"""Compute capabilities 10.x and 11.x, as TensorRT-LLM counts them."""
ADAPTERS = "trtllm-build: lora_plugin for a model that takes no adapters"
MLP_MODULES = frozenset({"mlp_h_to_4h", "mlp_gate"})


def value(engine: EngineOptions, field: str) -> Any:
    """An option's value: the spec's, else the release's default; None if that is not known."""
    given = getattr(engine.options, field)
    return unset_value(engine, field) if given is None else given


def size(engine: EngineOptions, field: str) -> int:
    """An option's value if it is a number; 0 for none and for one that the release decides."""
    found = value(engine, field)
    return found if type(found) is int else 0


def on(engine: EngineOptions, field: str) -> bool:
    """Whether an option is turned on; a plugin is on if it has a data type."""
    return value(engine, field) not in {None, False, "disable", "none"}


def off(engine: EngineOptions, field: str) -> bool:
    """Whether an option is turned off. Neither on nor off is an option that the release does not have."""
    return value(engine, field) in {False, "disable"}


def turned_off(engine: EngineOptions, field: str) -> bool:
    """Whether the spec itself turns an option off."""
    return getattr(engine.options, field) in {False, "disable"}


def architecture(engine: EngineOptions) -> str:
    """The architecture that the checkpoint has; empty if it is not known."""
    if engine.model is None:
        return ""
    named = engine.model.architecture
    if named == LLAMA or models.architectures(engine.release).value.get(named) != "LLaMAForCausalLM":
        return named
    if Version(engine.release) == LLAMA_ALWAYS:
        return LLAMA
    return "" if engine.precision in BY_MODELOPT else named


def starts(engine: EngineOptions, *names: str) -> bool:
    """Whether the architecture begins with one of these names."""
    return architecture(engine).startswith(names)


def known_and_not(engine: EngineOptions, *names: str) -> bool:
    """Whether the architecture is known, and is none of these."""
    found = architecture(engine)
    return bool(found) and found not in names


def has_gated_mlp(engine: EngineOptions) -> bool:
    """Whether the model is known to have an MLP that can be fused."""
    return engine.model is not None and engine.model.architecture in GATED


def has_experts(engine: EngineOptions) -> bool:
    """Whether the model is a mixture of experts."""
    return engine.model is not None and engine.model.experts > 0


def has_attention(engine: EngineOptions) -> bool:
    """Whether the model is known to use the attention of decoders."""
    return bool(architecture(engine)) and not starts(engine, "Mamba", "Bert", "Roberta")


def takes_no_adapters(engine: EngineOptions) -> bool:
    """Whether the release's class for the model cannot load adapters."""
    found = refusal(ADAPTERS, engine.release).value
    made = models.architectures(engine.release).value.get(architecture(engine))
    return found is not None and made is not None and made not in found.models


def on_blackwell(engine: EngineOptions) -> bool:
    """Whether the engine is for compute capability 10.x or 11.x."""
    return _capability(engine) in BLACKWELL


def on_first_blackwell(engine: EngineOptions) -> bool:
    """Whether the engine is for compute capability 10.0."""
    return _capability(engine) == BLACKWELL.start


def _capability(engine: EngineOptions) -> int:
    return engine.gpu.capability[0] * 10 + engine.gpu.capability[1] if engine.gpu else 0


def fuses_reduction(engine: EngineOptions) -> bool:
    """Whether `reduce_fusion` stays on."""
    able = architecture(engine) in {"", LLAMA, GEMMA_2} and engine.tensor_parallel > 1
    return on(engine, "reduce_fusion") and able


def positions(engine: EngineOptions) -> int:
    """The longest sequence in tokens, if the spec says it; else 0."""
    options = engine.options
    prompt, answer = options.max_input_len, options.max_output_len
    return options.max_seq_len or (prompt + answer if prompt and answer else 0)


def tokens_of_all(engine: EngineOptions) -> int:
    """How many tokens all requests can have together; 0 if the spec does not say it."""
    longest = positions(engine) if engine.flag("max_seq_len") else engine.input_length()
    return longest * size(engine, "max_batch_size")


def drafts(engine: EngineOptions) -> int:
    """How many draft tokens a mode of speculative decoding adds; 0 without a mode."""
    return size(engine, "max_draft_len") if engine.options.speculative_decoding_mode else 0

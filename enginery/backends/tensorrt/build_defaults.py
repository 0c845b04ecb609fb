"""An engine's build options: those of the spec, and a release's defaults for those that the spec leaves out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from packaging.version import Version

from enginery.backends.common import model_positions
from enginery.models import ModelFacts
from enginery.releases import Flag, flags_of, releases
from enginery.spec import BuildOptions, Gpu

WITHOUT_FLAG: Mapping[str, tuple[tuple[str, Any], ...]] = {
    "max_draft_len": (("0.8.0", 0),),
    "lookup_plugin": (("0.15.0", "disable"),),
    "dora_plugin": (("0.8.0", False),),
    "gemm_swiglu_plugin": (("0.8.0", "disable"),),
    "low_latency_gemm_plugin": (("0.8.0", "disable"),),
    "low_latency_gemm_swiglu_plugin": (("0.8.0", "disable"),),
    "fp8_rowwise_gemm_plugin": (("0.8.0", "disable"),),
    "gemm_allreduce_plugin": (("0.8.0", "disable"),),
    "context_fmha_fp32_acc": (("0.12.0", False),),
    "use_fp8_context_fmha": (("0.8.0", False),),
    "multiple_profiles": (("0.8.0", False),),
    "reduce_fusion": (("0.8.0", False),),
    "user_buffer": (("0.8.0", False),),
    "norm_quant_fusion": (("0.8.0", False),),
    "fuse_fp4_quant": (("0.8.0", False),),
    "pp_reduce_scatter": (("0.8.0", False),),
    "use_custom_all_reduce": (("0.12.0", True),),
    "multi_block_mode": (("0.12.0", False), ("0.13.0", True)),
    "enable_xqa": (("0.16.0", True),),
    "streamingllm": (("0.8.0", False),),
    "weight_streaming": (("0.8.0", False),),
    "weight_sparsity": (("0.8.0", False),),
    "strip_plan": (("0.8.0", False),),
    "strongly_typed": (("0.11.0", True),),
    "fast_build": (("0.8.0", False),),
}
"""Field -> how releases without a flag for it behave, as pairs of first release and value.

For a field that is not in this table, that is not known. From 0.13 on the runtime decides about `multi_block_mode`: the
value here is the runtime's default.
"""

SHOWN = (
    "max_batch_size",
    "max_input_len",
    "max_seq_len",
    "max_num_tokens",
    "max_beam_width",
    "kv_cache_type",
    "tokens_per_block",
    "gpt_attention_plugin",
    "gemm_plugin",
    "use_paged_context_fmha",
)
"""Fields whose defaults a plan shows, because they decide about memory and speed."""

ONNXRUNTIME = ("int4_algorithm", "int4_block_size", "int4_accuracy_level")
WITHOUT_DEFAULT = frozenset({"max_output_len", "lora_dir", "builder_force_num_profiles", "extra_args", *ONNXRUNTIME})
"""Fields that have no default of their own."""


@dataclass(frozen=True)
class EngineOptions:
    """The options of an engine, for the release that builds it.

    Attributes:
        options: the options in the spec.
        dtype: the number format of the activations, such as `bfloat16`; empty if it is not known.
        model: the model's shape; None if it is not known.
        ranks: how many GPUs share the engine.
        precision: the number format of the weights; empty if it is not known.
        kv_cache: the number format of the KV cache; empty if it is that of the activations, or not known.
        gpu: the GPU that runs the engine; None if it is not known.
    """

    options: BuildOptions
    release: str
    dtype: str = ""
    model: ModelFacts | None = None
    ranks: int = 1
    precision: str = ""
    kv_cache: str = ""
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    gpu: Gpu | None = None

    @cached_property
    def flags(self) -> Mapping[str, Flag]:
        """The flags of the release's `trtllm-build` by name (`--…`); none if the release builds no engines."""
        return flags_of(self.release).value

    def flag(self, field: str) -> Flag | None:
        """The flag of the same name as a field."""
        return self.flags.get(f"--{field}")

    def default(self, field: str) -> Any:
        """The default of the flag with a field's name; None if there is no such flag, or it has no default."""
        flag = self.flag(field)
        return flag.default if flag else None

    def input_length(self) -> int:
        """The longest prompt in tokens: the spec's limit, else the release's default."""
        return int(self.options.max_input_len or self.default("max_input_len"))


def in_yaml(value: Any) -> str:
    """A value as text in YAML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(in_yaml(one) for one in value) + "]"
    return str(value)


def value_without_flag(field: str, release: str) -> Any:
    """The value of an option in a release that has no flag for it; None if that is not known."""
    values = [value for since, value in WITHOUT_FLAG.get(field, ()) if Version(since) <= Version(release)]
    return values[-1] if values else None


@cache
def releases_with_flag(name: str) -> tuple[str, str]:
    """The first and the last known release with a flag; empty if no release has it."""
    having = [release for release in releases() if name in flags_of(release).value]
    return (having[0], having[-1]) if having else ("", "")


def unset_value(engine: EngineOptions, field: str) -> Any:
    """The value that the release uses for a field that the spec leaves out; None if that is not known."""
    flag = engine.flag(field)
    return value_without_flag(field, engine.release) if flag is None else _meaning(field, flag)


def notes_on(engine: EngineOptions) -> Iterator[str]:
    """Notes on the release's most important defaults, and on fields with less effect than a user may expect."""
    left_out = [(field, _default(engine, field)) for field in SHOWN if _is_unset(engine, field)]
    if shown := ", ".join(f"{field} {value}" for field, value in left_out if value):
        yield f"not in the spec, so {engine.release} uses its defaults: {shown}"
    for field in ONNXRUNTIME:
        if getattr(engine.options, field) is not None:
            yield f"build.{field} is ignored: it is for onnxruntime"
    if engine.options.lora_dir is not None:
        yield "of lora_dir only the paths are compared: if the adapters there change, no new build is made"


def unset_changes(options: BuildOptions, old_release: str, new_release: str) -> tuple[str, ...]:
    """Fields that the spec leaves out and whose default differs between two releases: `max_batch_size: 1 -> 2048`.

    Empty if one of the releases builds no engines.

    Raises:
        UsageError: when a release is so old that nothing is known of it.
    """
    before, after = (EngineOptions(options, release) for release in (old_release, new_release))
    if not (before.flags and after.flags):
        return ()
    unset = (field for field in BuildOptions.model_fields if _is_unset(after, field))
    changes = ((field, _default(before, field), _default(after, field)) for field in unset)
    return tuple(f"{field}: {old} -> {new}" for field, old, new in changes if old and new and old != new)


def default_length(options: BuildOptions, release: str) -> int:
    """The longest sequence in tokens if the spec sets no `max_seq_len`; 0 if the release uses the model's own."""
    engine = EngineOptions(options, release)
    return 0 if engine.flag("max_seq_len") else _summed_length(engine)


def _is_unset(engine: EngineOptions, field: str) -> bool:
    """Whether the spec leaves a field out, and sets no other field with the same meaning."""
    if field == "max_seq_len" and engine.options.max_output_len is not None:
        return False
    return field not in WITHOUT_DEFAULT and getattr(engine.options, field) is None


def _default(engine: EngineOptions, field: str) -> str:
    """The release's value for a field that the spec leaves out, as text in YAML; empty if it is not known."""
    if field == "max_seq_len":
        positions = model_positions(engine.model) if engine.model else 0
        own = f"the model's own {positions}" if positions else "the model's own"
        return own if engine.flag("max_seq_len") else str(_summed_length(engine))
    if field == "kv_cache_type":
        return "paged"
    value = unset_value(engine, field)
    return "" if value is None else in_yaml(value)


def _meaning(field: str, flag: Flag) -> Any:
    if flag.is_switch or set(flag.choices) == {"enable", "disable"}:
        return flag.default in {True, "enable"}
    if flag.default is None:
        return "disable" if field.endswith("_plugin") else "none"
    return flag.default


def _summed_length(engine: EngineOptions) -> int:
    """The longest sequence in tokens (prompt and answer), for a release that has a limit for each of the two."""
    return engine.input_length() + int(engine.default("max_output_len"))

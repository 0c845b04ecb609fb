"""What an option that is left out comes to in a release, and where another release makes something else of it."""

from collections.abc import Iterator
from typing import Any

from enginery.backends.lengths import model_positions
from enginery.backends.tensorrt.build_absent import absent
from enginery.backends.tensorrt.build_terms import Asked, written
from enginery.releases.flags import Flag, flags
from enginery.spec import BuildOptions

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
"""What a plan shows when it is left out, most of all what decides over memory and speed."""

ONNXRUNTIME = ("int4_block_size", "int4_accuracy_level")
UNSAID = frozenset({"max_output_len", "lora_dir", "builder_force_num_profiles", "extra_args", *ONNXRUNTIME})
"""Fields that have no default of their own."""


def is_unset(asked: Asked, field: str) -> bool:
    """Whether the spec leaves it out, in its own name or another."""
    if field == "max_seq_len" and asked.options.max_output_len is not None:
        return False
    return field not in UNSAID and getattr(asked.options, field) is None


def default(asked: Asked, field: str) -> str:
    """What the release makes of a field that is left out, as a spec writes it; empty where that is not known."""
    if field == "max_seq_len":
        return _max_seq_len(asked)
    if field == "kv_cache_type":
        return "paged"
    value = unset_value(asked, field)
    return "" if value is None else written(value)


def unset_value(asked: Asked, field: str) -> Any:
    """The value that the release takes for a field that is left out; None where that is not known."""
    flag = asked.flag(field)
    return absent(field, asked.release) if flag is None else _meaning(field, flag)


def notes_on(asked: Asked) -> Iterator[str]:
    """The defaults that matter and are left to the release, and fields that count less than one may think."""
    left_out = [(field, default(asked, field)) for field in SHOWN if is_unset(asked, field)]
    if shown := ", ".join(f"{field} {value}" for field, value in left_out if value):
        yield f"left out, so the defaults of {asked.release}: {shown}"
    for field in ONNXRUNTIME:
        if getattr(asked.options, field) is not None:
            yield f"build.{field} is ignored: it is onnxruntime's"
    if asked.options.lora_dir is not None:
        yield "lora_dir counts by its paths: adapters that change there make no new build"


def default_changes(before: Asked, after: Asked) -> Iterator[str]:
    """Fields that are left out and come to something else, such as `max_batch_size: 1 -> 2048`."""
    for field in type(after.options).model_fields:
        if is_unset(after, field):
            old, new = default(before, field), default(after, field)
            if old and new and old != new:
                yield f"{field}: {old} -> {new}"


def _meaning(field: str, flag: Flag) -> Any:
    if flag.is_switch or set(flag.choices) == {"enable", "disable"}:
        return flag.default in {True, "enable"}
    if flag.default is None:
        return "disable" if field.endswith("_plugin") else "none"
    return flag.default


def _max_seq_len(asked: Asked) -> str:
    if asked.flag("max_seq_len"):
        positions = model_positions(asked.model) if asked.model else 0
        return f"the model's own {positions}" if positions else "the model's own"
    return str(_summed_length(asked))


def own_length(options: BuildOptions, release: str) -> int:
    """The longest sequence of an engine for which the spec gives none, in tokens; 0 where it is the model's own."""
    asked = Asked(options, release, flags(release).value)
    return 0 if asked.flag("max_seq_len") else _summed_length(asked)


def _summed_length(asked: Asked) -> int:
    """Prompt and answer, of a release that is told the two apart."""
    return asked.input_length() + int(asked.default("max_output_len"))

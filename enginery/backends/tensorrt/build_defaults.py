"""What an option that is left out comes to in a release, and where another release makes something else of it."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from packaging.version import Version

from enginery.backends.common import model_positions
from enginery.backends.tensorrt.build_terms import Asked, written
from enginery.releases import Flag, flags_of, releases
from enginery.spec import BuildOptions, Finding, warning

# What a release does that has no flag for an option: the value that may be left out there.


ABSENT: Mapping[str, tuple[tuple[str, Any], ...]] = {
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
"""Field -> the values it has where there is no flag for it, each with the first release.

A field that is not here has no such value. In `multi_block_mode` it is the default of the runtime, which decides since.
"""


def absent(field: str, release: str) -> Any:
    """The value that the release follows without a flag; None where there is none."""
    held = [value for since, value in ABSENT.get(field, ()) if Version(since) <= Version(release)]
    return held[-1] if held else None


@cache
def present(name: str) -> tuple[str, str]:
    """The first and the last known release with a flag; empty where none has it."""
    having = [release for release in releases() if name in flags_of(release).value]
    return (having[0], having[-1]) if having else ("", "")


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
    asked = Asked(options, release, flags_of(release).value)
    return 0 if asked.flag("max_seq_len") else _summed_length(asked)


def _summed_length(asked: Asked) -> int:
    """Prompt and answer, of a release that is told the two apart."""
    return asked.input_length() + int(asked.default("max_output_len"))


# Options that contradict each other, whatever the release. Lengths that do are found with those of the model.


LORA_FIELDS = ("lora_dir", "lora_ckpt_source", "lora_target_modules", "max_lora_rank", "dora_plugin")
WITHOUT_PAGES = ("continuous", "disabled")


class Contradiction(NamedTuple):
    """A pair of options that cannot both be meant.

    Attributes:
        field: the field to point at.
        found: whether the options have it.
        problem: what is contradictory, with fields of the options in braces.
        remedy: what to do.
    """

    field: str
    found: Callable[[BuildOptions], bool]
    problem: str
    remedy: str


CONTRADICTIONS = (
    Contradiction(
        "max_output_len",
        lambda one: one.max_output_len is not None and one.max_seq_len is not None,
        "the longest answer is given twice: max_output_len is {max_output_len} and max_seq_len is {max_seq_len}",
        "give one of them",
    ),
    Contradiction(
        "use_paged_context_fmha",
        lambda one: bool(one.use_paged_context_fmha) and one.kv_cache_type in WITHOUT_PAGES,
        "needs a paged KV cache, and kv_cache_type is {kv_cache_type}",
        "set kv_cache_type to paged, or use_paged_context_fmha to false",
    ),
    *(
        Contradiction(
            field,
            lambda one, field=field: bool(getattr(one, field)) and one.context_fmha is False,  # type: ignore[misc]
            "needs the fused attention of prompts, and context_fmha is false",
            f"set context_fmha to true, or {field} to false",
        )
        for field in ("use_paged_context_fmha", "use_fp8_context_fmha", "context_fmha_fp32_acc")
    ),
    *(
        Contradiction(
            field,
            lambda one, field=field: bool(getattr(one, field)) and one.lora_plugin in {None, "disable"},  # type: ignore[misc]
            "does nothing without lora_plugin: the engine takes no adapters",
            "set lora_plugin, such as auto, or leave this out",
        )
        for field in LORA_FIELDS
    ),
    Contradiction(
        "max_draft_len",
        lambda one: one.speculative_decoding_mode == "draft_tokens_external" and not one.max_draft_len,
        "speculative_decoding_mode is draft_tokens_external, and the engine takes no draft tokens",
        "set max_draft_len to at least 1",
    ),
    *(
        Contradiction(
            field,
            lambda one, field=field: bool(one.gather_all_token_logits) and getattr(one, field) is False,  # type: ignore[misc]
            "gather_all_token_logits is true, and this is false",
            "leave gather_all_token_logits out",
        )
        for field in ("gather_context_logits", "gather_generation_logits")
    ),
)


def contradictions(asked: Asked) -> Iterator[Finding]:
    """Every contradiction in what is asked."""
    options = asked.options
    values = options.model_dump()
    for one in CONTRADICTIONS:
        if one.found(options):
            yield Finding("E162", f"build.{one.field}", one.problem.format(**values), one.remedy)


# Plugins whose data type is not that of the activations.
#
# Up to 0.10 a plugin that is left out computes in float16, whatever the checkpoint is in: an engine of bfloat16 weights
# is wrong then, and nothing says so. From 0.11 on the default is `auto`.


FLOATS = frozenset({"float16", "float32", "bfloat16"})
ATTENTION = "gpt_attention_plugin"

IN_USE: Mapping[str, Callable[[Asked], bool]] = {
    ATTENTION: lambda asked: not _is(asked, "Bert", "Roberta"),
    "bert_attention_plugin": lambda asked: _is(asked, "Bert", "Roberta"),
    "nccl_plugin": lambda asked: asked.ranks > 1,
    "moe_plugin": lambda asked: asked.model is not None and asked.model.experts > 0,
    "mamba_conv1d_plugin": lambda asked: _is(asked, "Mamba", "RecurrentGemma"),
}
"""Plugin with a default -> whether the model uses it."""

TYPED = (*IN_USE, "gemm_plugin", "lookup_plugin", "lora_plugin", "fp8_rowwise_gemm_plugin", "gemm_allreduce_plugin")
"""Plugins that are given by a data type."""


def dtype_findings(asked: Asked) -> Iterator[Finding]:
    """Every plugin whose data type is not that of the activations; none where that is not known."""
    if asked.dtype not in FLOATS:
        return
    for field in TYPED:
        value = getattr(asked.options, field)
        default = asked.default(field)
        if value is None and default in FLOATS - {asked.dtype} and IN_USE[field](asked):
            yield _unset(asked, field, default)
        elif value in FLOATS - {asked.dtype} and asked.flag(field):
            yield _contradicting(asked, field, value)


def _unset(asked: Asked, field: str, default: str) -> Finding:
    problem = (
        f"left out, it is {default} in {asked.release}, and the activations are {asked.dtype}: "
        "the engine would compute wrongly"
    )
    return Finding("E164", f"build.{field}", problem, f"set it to {asked.dtype} or auto")


def _contradicting(asked: Asked, field: str, value: str) -> Finding:
    problem = f"computes in {value}, and the activations are {asked.dtype}"
    remedy = f"set it to {asked.dtype} or auto"
    if field == ATTENTION:
        return Finding("E164", f"build.{field}", f"{problem}: the engine would compute wrongly", remedy)
    return warning("W164", f"build.{field}", problem, remedy)


def _is(asked: Asked, *names: str) -> bool:
    return asked.model is not None and asked.model.architecture.startswith(names)


# `extra_args`: more arguments for `trtllm-build`, each checked against the flags of the release.


FIELDS: Mapping[str, str] = {
    **{f"--{field}": field for field in BuildOptions.model_fields},
    "--paged_kv_cache": "kv_cache_type",
    "--max_multimodal_len": "max_prompt_embedding_table_size",
    "--max_decoder_seq_len": "max_seq_len",
}
"""Flag -> the field to write in its place."""

OWN: Mapping[str, str] = {
    **dict.fromkeys(
        ("--checkpoint_dir", "--output_dir", "--model_config", "--build_config"), "Enginery sets what is built"
    ),
    **dict.fromkeys(
        ("--timing_cache", "--input_timing_cache", "--output_timing_cache"), "Enginery keeps timing caches"
    ),
    **dict.fromkeys(
        ("--tp_size", "--pp_size", "--auto_parallel"), "the target's tensor_parallel and pipeline_parallel say so"
    ),
    "--dry_run": "it makes no engine",
}
"""Flag -> why it cannot be given."""

NUMBER = re.compile(r"-\d+|-\d*\.\d+")
CASTS = {"int": int, "float": float}


class Group(NamedTuple):
    """One flag of the extra arguments with the values after it."""

    name: str
    values: tuple[str, ...]


def extra_findings(asked: Asked) -> tuple[Finding, ...]:
    """What is wrong with the extra arguments."""
    problems = [problem for group in _groups(asked.options.extra_args) for problem in _problems(asked, group)]
    return tuple(Finding("E163", "build.extra_args", problem, remedy) for problem, remedy in problems)


def _groups(arguments: Sequence[str]) -> Iterator[Group]:
    """The arguments by flag; values before the first flag have an empty name."""
    name, values = "", list[str]()
    for argument in arguments:
        if not argument.startswith("-") or NUMBER.fullmatch(argument):
            values.append(argument)
            continue
        if name or values:
            yield Group(name, tuple(values))
        name, equals, value = argument.partition("=")
        values = [value] if equals else []
    if name or values:
        yield Group(name, tuple(values))


def _problems(asked: Asked, group: Group) -> Iterator[tuple[str, str]]:
    flag = asked.flags.get(group.name)
    if group.name in FIELDS:
        yield f"{group.name} has a field of its own", f"write build.{FIELDS[group.name]} in its place"
    elif group.name in OWN:
        yield f"{group.name} cannot be given: {OWN[group.name]}", "leave it out"
    elif not group.name:
        yield f"{' '.join(group.values)!r} follows no flag", "begin with a flag such as --log_level"
    elif flag is None:
        yield f"{asked.release} has no {group.name}", "leave it out; see `enginery releases diff`"
    else:
        yield from _value_problems(asked.release, flag, group)


def _value_problems(release: str, flag: Flag, group: Group) -> Iterator[tuple[str, str]]:
    """A flag without a field takes no value or one."""
    wanted, found = int(not flag.is_switch), len(group.values)
    if found != wanted:
        yield f"{flag.name} of {release} takes {wanted or 'no'} value, found {found}", "give as many as it takes"
        return
    for value in group.values:
        if not _fits(flag, value):
            kind = f"one of {', '.join(map(str, dict.fromkeys(flag.choices)))}" if flag.choices else flag.type
            yield f"{flag.name} of {release} does not take {value!r}, only {kind}", "give such a value"


def _fits(flag: Flag, value: str) -> bool:
    if flag.type in CASTS:
        try:
            CASTS[flag.type](value)
        except ValueError:
            return False
    return flag.accepts(value)

"""What is wrong with an engine's options: contradictions, data types of plugins, and `extra_args`.

The release's own flags are checked where they are rendered, in `build_options`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from enginery.backends.tensorrt.build_defaults import EngineOptions
from enginery.backends.tensorrt.script_arguments import has_type
from enginery.releases import Flag
from enginery.spec import BuildOptions, Finding, warning

LORA_FIELDS = ("lora_dir", "lora_ckpt_source", "lora_target_modules", "max_lora_rank", "dora_plugin")
WITHOUT_PAGES = ("continuous", "disabled")
FLOATS = frozenset({"float16", "float32", "bfloat16"})
ATTENTION = "gpt_attention_plugin"

FIELDS: Mapping[str, str] = {
    **{f"--{field}": field for field in BuildOptions.model_fields},
    "--paged_kv_cache": "kv_cache_type",
    "--max_multimodal_len": "max_prompt_embedding_table_size",
    "--max_decoder_seq_len": "max_seq_len",
}
"""Flag -> the field to write in its place."""

RESERVED: Mapping[str, str] = {
    **dict.fromkeys(
        ("--checkpoint_dir", "--output_dir", "--model_config", "--build_config"), "Enginery sets input and output"
    ),
    **dict.fromkeys(
        ("--timing_cache", "--input_timing_cache", "--output_timing_cache"), "Enginery keeps timing caches"
    ),
    **dict.fromkeys(
        ("--tp_size", "--pp_size", "--auto_parallel"), "the target's tensor_parallel and pipeline_parallel set it"
    ),
    "--dry_run": "it makes no engine",
}
"""Flag -> why `extra_args` cannot have it."""
NUMBER = re.compile(r"-\d+|-\d*\.\d+")


class Contradiction(NamedTuple):
    """Two options that contradict each other.

    Attributes:
        found: whether a target's options have this contradiction.
        problem: the text of the finding. Names of options in braces stand for their values.
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


def contradictions(engine: EngineOptions) -> Iterator[Finding]:
    """Findings for options that contradict each other in every release. `length_findings` checks lengths."""
    options = engine.options
    values = options.model_dump()
    for one in CONTRADICTIONS:
        if one.found(options):
            yield Finding("E162", f"build.{one.field}", one.problem.format(**values), one.remedy)


IN_USE: Mapping[str, Callable[[EngineOptions], bool]] = {
    ATTENTION: lambda engine: not _has_architecture(engine, "Bert", "Roberta"),
    "bert_attention_plugin": lambda engine: _has_architecture(engine, "Bert", "Roberta"),
    "moe_plugin": lambda engine: engine.model is not None and engine.model.experts > 0,
    "mamba_conv1d_plugin": lambda engine: _has_architecture(engine, "Mamba", "RecurrentGemma"),
}
"""Plugin with a default -> whether the model uses it."""

PLUGINS = (*IN_USE, "gemm_plugin", "lookup_plugin", "lora_plugin", "fp8_rowwise_gemm_plugin", "gemm_allreduce_plugin")
"""Plugins whose option is a data type."""


def dtype_findings(engine: EngineOptions) -> Iterator[Finding]:
    """Findings for plugins whose data type is not that of the activations; none if the latter is not known.

    Up to 0.10 a plugin that the spec leaves out computes in float16, even if the checkpoint is in bfloat16. Such an
    engine is wrong, and nothing reports it. From 0.11 on the default is `auto`. The NCCL plugin is not checked: every
    release gives it the data type of the activations (`refusals`).
    """
    if engine.dtype not in FLOATS:
        return
    others = FLOATS - {engine.dtype}
    remedy = f"set it to {engine.dtype} or auto"
    for field in PLUGINS:
        value, default = getattr(engine.options, field), engine.default(field)
        if value is None and default in others and IN_USE[field](engine):
            problem = f"left out, it is {default} in {engine.release}, and the activations are {engine.dtype}"
            yield Finding("E164", f"build.{field}", f"{problem}: the engine would compute wrongly", remedy)
        elif value in others and engine.flag(field):
            problem = f"computes in {value}, and the activations are {engine.dtype}"
            if field == ATTENTION:
                yield Finding("E164", f"build.{field}", f"{problem}: the engine would compute wrongly", remedy)
            else:
                yield warning("W164", f"build.{field}", problem, remedy)


def extra_findings(engine: EngineOptions) -> tuple[Finding, ...]:
    """What is wrong with `extra_args`: each argument is checked against the flags of the release."""
    problems = [problem for group in _groups(engine.options.extra_args) for problem in _problems(engine, *group)]
    return tuple(Finding("E163", "build.extra_args", problem, remedy) for problem, remedy in problems)


def _has_architecture(engine: EngineOptions, *names: str) -> bool:
    return engine.model is not None and engine.model.architecture.startswith(names)


def _groups(arguments: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each flag with the values after it. Values before the first flag have an empty flag name."""
    name, values = "", list[str]()
    for argument in arguments:
        if not argument.startswith("-") or NUMBER.fullmatch(argument):
            values.append(argument)
            continue
        if name or values:
            yield name, values
        name, equals, value = argument.partition("=")
        values = [value] if equals else []
    if name or values:
        yield name, values


def _problems(engine: EngineOptions, name: str, values: Sequence[str]) -> Iterator[tuple[str, str]]:
    flag = engine.flags.get(name)
    if name in FIELDS:
        yield f"{name} has a field of its own", f"write build.{FIELDS[name]} in its place"
    elif name in RESERVED:
        yield f"{name} cannot be given: {RESERVED[name]}", "leave it out"
    elif not name:
        yield f"{' '.join(values)!r} follows no flag", "begin with a flag such as --log_level"
    elif flag is None:
        yield f"{engine.release} has no {name}", "leave it out; see `enginery releases diff`"
    else:
        yield from _value_problems(engine.release, flag, values)


def _value_problems(release: str, flag: Flag, values: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What is wrong with a flag's values. Flags that are no field of the spec take one value or none."""
    takes = int(not flag.is_switch)
    if len(values) != takes:
        yield f"{flag.name} of {release} takes {takes or 'no'} value, found {len(values)}", "give as many as it takes"
        return
    for value in values:
        if not (has_type(value, flag) and flag.accepts(value)):
            kind = f"one of {', '.join(map(str, dict.fromkeys(flag.choices)))}" if flag.choices else flag.type
            yield f"{flag.name} of {release} does not take {value!r}, only {kind}", "give such a value"

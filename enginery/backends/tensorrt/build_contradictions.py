"""Options that contradict each other, whatever the release. Lengths that do are found with those of the model."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from enginery.backends.tensorrt.build_terms import Asked
from enginery.findings import Finding
from enginery.spec import BuildOptions

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

"""Plugins whose data type is not that of the activations.

Up to 0.10 a plugin that is left out computes in float16, whatever the checkpoint is in: an engine of bfloat16 weights
is wrong then, and nothing says so. From 0.11 on the default is `auto`.
"""

from collections.abc import Callable, Iterator, Mapping

from enginery.backends.tensorrt.build_terms import Asked
from enginery.findings import Finding, warning

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

"""Which precisions a release computes in, by GPU and by model."""

from enginery.errors import UsageError
from enginery.releases import facts
from enginery.releases.provenance import Known
from enginery.spec import Precision

AMPERE = (8, 0)

NEEDS: dict[Precision, tuple[frozenset[str], tuple[int, int]]] = {
    Precision.FLOAT32: (frozenset({"FP32"}), (0, 0)),
    Precision.FLOAT16: (frozenset({"FP16"}), (0, 0)),
    Precision.BFLOAT16: (frozenset({"BF16"}), (0, 0)),
    Precision.FP8: (frozenset({"FP8"}), (0, 0)),
    Precision.INT8_SMOOTHQUANT: (frozenset({"INT8"}), AMPERE),
    Precision.INT8_WEIGHT_ONLY: (frozenset({"INT8"}), (0, 0)),
    Precision.INT4_WEIGHT_ONLY: (frozenset({"INT4"}), (0, 0)),
    Precision.INT4_AWQ: (frozenset({"INT4"}), AMPERE),
    Precision.W4A8_AWQ: (frozenset({"INT4", "FP8"}), AMPERE),
    Precision.NVFP4: (frozenset({"FP4"}), (0, 0)),
}
"""Precision -> the number formats it needs, and the first compute capability the support matrix' footnotes allow."""


def formats(release: str, capability: tuple[int, int]) -> Known[tuple[str, ...]]:
    """The number formats of a compute capability, as the release's support matrix names them.

    Empty where the matrix does not list the capability: the release does not support it, or does so unsaid.
    """
    found = facts.look_up_one("precisions", "capabilities", release, f"{capability[0]}.{capability[1]}")
    return Known(tuple(found.value or ()), found.provenance)


def precisions(release: str, capability: tuple[int, int]) -> Known[frozenset[Precision]]:
    """The precisions of a spec that the release can build for a compute capability."""
    found = formats(release, capability)
    able = frozenset(
        precision for precision, (needed, first) in NEEDS.items() if needed <= set(found.value) and capability >= first
    )
    return Known(able, found.provenance)


def capabilities(release: str) -> Known[tuple[tuple[int, int], ...]]:
    """The compute capabilities that the release's support matrix lists, the lowest first."""
    found = facts.look_up("precisions", "capabilities", release)
    split = [name.split(".") for name in found.value or {}]
    return Known(tuple(sorted((int(major), int(minor)) for major, minor in split)), found.provenance)


def model_formats(release: str, model: str) -> Known[tuple[str, ...]]:
    """The formats the release's precision table names for a model, such as `LLaMA` or `Mixtral`.

    Raises:
        UsageError: the table has no such model.
    """
    found = facts.look_up_one("precisions", "models", release, model)
    if found.value is None:
        known = ", ".join(facts.look_up("precisions", "models", release).value or ())
        raise UsageError(f"{release}'s table of precisions has no model {model!r}", remedy=f"it has: {known}")
    return Known(tuple(found.value), found.provenance)

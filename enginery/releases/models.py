"""Models in a release: which ones it converts, in which precisions, and the templates that Triton serves them with.

A family of models has its own converter, which serves one or more architectures. The templates are the `config.pbtxt`
files of `inflight_batcher_llm`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enginery.core.errors import UsageError
from enginery.releases import facts
from enginery.releases.facts import Known
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
"""Precision -> the number formats it needs, and the lowest compute capability, from footnotes of the support matrix."""
MODELS = ("preprocessing", "postprocessing", "tensorrt_llm", "tensorrt_llm_bls", "ensemble")
STEPS = ("preprocessing", "tensorrt_llm", "postprocessing")
"""The models that the ensemble calls, in this order."""
PARTS = ("parameters", "inputs", "outputs", "settings")
MAPS = ("takes", "gives")


@dataclass(frozen=True)
class Family:
    """A family of models with a converter of its own.

    Attributes:
        name: the converter's directory, such as `llama`.
        architectures: the architectures it serves, mostly named as in a Hugging Face `config.json`.
        tie: how the architectures are known: `script` (the converter names them) or, less sure, `module name`.
    """

    name: str
    architectures: tuple[str, ...]
    tie: str


@dataclass(frozen=True)
class Template:
    """One model's template.

    Attributes:
        placeholders: name -> whether it is in quotes. Without quotes, the file is invalid until the value is filled in.
        parameters: name -> value as it is in the file, mostly a placeholder `${…}`.
        inputs: tensor -> its data type, shape, and whether it is optional.
        outputs: the same for the tensors that it returns.
        settings: how it runs: platform or backend, instances, batching, transaction policy.
        takes: input -> the ensemble's name for it; empty for models that the ensemble does not call.
        gives: output -> the ensemble's name for it; empty for the same models.
    """

    model: str
    placeholders: Mapping[str, bool]
    parameters: Mapping[str, str]
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    settings: Mapping[str, Any]
    takes: Mapping[str, str]
    gives: Mapping[str, str]


def families(release: str) -> Known[Mapping[str, Family]]:
    """The families of a release by name; empty if the release builds no engines."""
    found = facts.look_up("families", "families", release)
    made = {name: Family(name, tuple(fact["architectures"]), fact["tie"]) for name, fact in (found.value or {}).items()}
    return Known(made, found.provenance)


def families_of(release: str, architecture: str) -> Known[tuple[Family, ...]]:
    """The families whose converter serves an architecture, the surest first; empty if the release has none."""
    found = families(release)
    serving = [family for family in found.value.values() if architecture in family.architectures]
    return Known(tuple(sorted(serving, key=lambda family: family.tie != "script")), found.provenance)


def architectures(release: str) -> Known[Mapping[str, str]]:
    """Architecture -> TensorRT-LLM's class for it; empty if the release builds no engines."""
    found = facts.look_up("families", "architectures", release)
    return Known(found.value or {}, found.provenance)


def pytorch_architectures(release: str) -> Known[frozenset[str]]:
    """The architectures that the release's PyTorch backend has a class for, also those that generate no text."""
    found = facts.look_up("pytorch", "architectures", release)
    return Known(frozenset(found.value or ()), found.provenance)


def precisions(release: str, capability: tuple[int, int]) -> Known[frozenset[Precision]]:
    """The precisions of a spec that the release can build for a compute capability.

    Empty if its support matrix does not list the capability: the release does not support it, or does not say so.
    """
    found = facts.look_up("precisions", "capabilities", release, f"{capability[0]}.{capability[1]}")
    formats = set(found.value or ())
    able = {name for name, (needed, first) in NEEDS.items() if needed <= formats and capability >= first}
    return Known(frozenset(able), found.provenance)


def capabilities(release: str) -> Known[tuple[tuple[int, int], ...]]:
    """The compute capabilities that the release's support matrix lists, the lowest first."""
    found = facts.look_up("precisions", "capabilities", release)
    split = [name.split(".") for name in found.value or {}]
    return Known(tuple(sorted((int(major), int(minor)) for major, minor in split)), found.provenance)


def model_formats(release: str, model: str) -> Known[tuple[str, ...]]:
    """The formats that the release's precision table names for a model, such as `LLaMA` or `Mixtral`.

    Raises:
        UsageError: when the table has no such model.
    """
    found = facts.look_up("precisions", "models", release, model)
    if found.value is None:
        known = ", ".join(facts.look_up("precisions", "models", release).value or ())
        raise UsageError(f"{release}'s table of precisions has no model {model!r}", remedy=f"it has: {known}")
    return Known(tuple(found.value), found.provenance)


def template(release: str, model: str) -> Known[Template | None]:
    """A model's template; None if the release has none.

    Raises:
        UsageError: when there is no such model, or the release is older than all known ones.
    """
    placeholders = facts.look_up("templates", f"{model}/placeholders", release)
    if placeholders.value is None:
        return Known(None, placeholders.provenance)
    wanted = (*PARTS, *MAPS) if model in STEPS else PARTS
    parts = {part: facts.look_up("templates", f"{model}/{part}", release).value or {} for part in wanted}
    quoted = {name: bool(fact["quoted"]) for name, fact in placeholders.value.items()}
    return Known(Template(model, quoted, **{"takes": {}, "gives": {}, **parts}), placeholders.provenance)

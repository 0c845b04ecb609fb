"""Triton's five models of a release (`inflight_batcher_llm`): what their `config.pbtxt` templates hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enginery.releases import facts
from enginery.releases.known import REMOVAL, builds_engines
from enginery.releases.provenance import Known

MODELS = ("preprocessing", "postprocessing", "tensorrt_llm", "tensorrt_llm_bls", "ensemble")
STEPS = ("preprocessing", "tensorrt_llm", "postprocessing")
"""The models that the ensemble asks, in this order."""
PARTS = ("parameters", "inputs", "outputs", "settings")
MAPS = ("takes", "gives")


@dataclass(frozen=True)
class Template:
    """One model's template.

    Attributes:
        model: its name.
        placeholders: name -> whether it stands in quotes; without them the file is invalid until it is filled.
        parameters: name -> value as it stands there, mostly a placeholder `${…}`.
        inputs: tensor -> its data type, shape, and whether it is optional.
        outputs: the same for what it returns.
        settings: how it is run: platform or backend, instances, batching, transaction policy.
        takes: input -> the ensemble's name for it; only of the models that the ensemble asks.
        gives: output -> the ensemble's name for it.
    """

    model: str
    placeholders: Mapping[str, bool]
    parameters: Mapping[str, str]
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    settings: Mapping[str, Any]
    takes: Mapping[str, str]
    gives: Mapping[str, str]

    @property
    def unquoted(self) -> frozenset[str]:
        """The placeholders that must be filled."""
        return frozenset(name for name, quoted in self.placeholders.items() if not quoted)


def template(release: str, model: str) -> Known[Template | None]:
    """A model's template; None once the release has none.

    Raises:
        UsageError: there is no such model, or nothing is known of so old a release.
    """
    placeholders = facts.look_up("templates", f"{model}/placeholders", release)
    if not builds_engines(release):
        return Known(None, REMOVAL)
    wanted = (*PARTS, *MAPS) if model in STEPS else PARTS
    parts = {part: facts.look_up("templates", f"{model}/{part}", release).value or {} for part in wanted}
    quoted = {name: bool(fact["quoted"]) for name, fact in (placeholders.value or {}).items()}
    return Known(Template(model, quoted, **{"takes": {}, "gives": {}, **parts}), placeholders.provenance)

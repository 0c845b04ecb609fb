"""Compares the weights in an engine of ONNX Runtime with those of its model, by value.

Whatever spoils one matrix of many (a scale, a layer, two matrices exchanged) changes the predictions of a large model
less than its quantization does. Here it is found, and named.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue

from enginery.backends.common import OFFLINE
from enginery.core.errors import UsageError, ValidationError
from enginery.core.model import Frozen
from enginery.core.progress import Facts
from enginery.store import StepContext
from enginery.toolchains import COMPARE_ONNX_WEIGHTS, driver_sha256

UNDERSTOOD = frozenset(
    f"{name}ForCausalLM"
    for name in ("Ernie4_5", "Gemma2", "Granite", "Llama", "Mistral", "Olmo", "Phi3", "Qwen2", "Qwen3", "SmolLM3")
)
"""Architectures for which the builder was seen to keep every weight as it is. For others, differences are logged."""
REMEDY = "build again; if the differences remain, use another release or precision: this builder does not fit the model"


class Limits(NamedTuple):
    """The largest errors of a good weight, relative to its norm.

    Attributes:
        whole: of the whole weight.
        block: of one block of values.
    """

    whole: float
    block: float


LIMITS = {4: Limits(0.35, 0.75), 8: Limits(0.05, 0.2), 16: Limits(0.02, 0.1), 32: Limits(0.001, 0.01)}
"""Bits -> limits. Rounding to the nearest of 15 values gives matrices an error of 0.05 to 0.12, and their worst blocks
one of 0.26; larger blocks have larger errors. In 8 bits the errors are 0.006 and 0.011."""
DIGEST = "weights_driver_sha256"
ROTARY = "rotary base"
ROTARY_LIMIT = 0.2
"""A table of angles in 16 bits tells the base to some percent."""


class WeightsError(ValidationError):
    """An engine has other weights than the model it was built from."""

    def __init__(self, differences: Sequence[str], subject: str) -> None:
        self.differences = tuple(differences)
        listed = "".join(f"\n  - {difference}" for difference in differences)
        problem = f"this engine does not have the weights of its model; wrong in {len(differences)} places{listed}"
        super().__init__(problem, subject=subject, remedy=REMEDY)


class ComparedWeight(Frozen):
    """One weight, as the driver `compare_onnx_weights.py` describes it.

    Attributes:
        name: its name in the model.
        bits: the bits of its values in the engine.
        error: the norm of the difference, relative to the norm of the original.
        worst: the largest error of a block of values.
        block: where that block is.
        share: the share of the values that were compared.
        looks: what it looks like in the engine, if it is not as it should be.
    """

    name: str
    bits: int
    error: float
    worst: float
    block: str
    share: float
    looks: str = ""

    @property
    def problem(self) -> str:
        """What is wrong with it; empty if nothing is."""
        if self.name == ROTARY:
            return f"the rotary base is {self.looks}" if self.error > ROTARY_LIMIT else ""
        limits = LIMITS.get(self.bits, LIMITS[4])
        if self.error > limits.whole:
            looks = f"{self.looks}; " if self.looks else ""
            return f"{self.name} is not the model's: {looks}relative error {self.error:.3g}, at most {limits.whole:g}"
        if self.worst > limits.block:
            where = f"relative error {self.worst:.3g}, at most {limits.block:g}"
            return f"{self.name} differs from the model's in {self.block}: {where}"
        return ""


class WeightComparison(Frozen):
    """Everything that was compared, and the names of what was not.

    Attributes:
        architecture: the model's class.
        compared: the weights that were compared.
        skipped: weights of the engine that have no counterpart in the model, by their names.
        lost_layers: layers of the model that the engine does not have.
    """

    architecture: str
    compared: tuple[ComparedWeight, ...]
    skipped: tuple[str, ...] = ()
    lost_layers: tuple[int, ...] = ()

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong, a sentence each."""
        return list(self._problems())

    def _problems(self) -> Iterator[str]:
        for layer in self.lost_layers:
            yield f"layer {layer} of the model is not in the engine"
        yield from filter(None, (weight.problem for weight in self.compared))


def weights_recipe() -> Mapping[str, JsonValue]:
    """What the recipe of a validation says of this comparison."""
    return {DIGEST: driver_sha256(COMPARE_ONNX_WEIGHTS)}


def require_same_weights(context: StepContext) -> Facts:
    """Make sure that the engine in `engine` has the weights in `weights`; returns what was compared.

    Nothing can be compared without a toolchain.

    Raises:
        WeightsError: when a weight is another one; the error names all of them.
        CommandError: when the engine or the weights cannot be read.
        UsageError: when the plan was made with another version of the driver.
    """
    if context.toolchain is None:
        return {}
    if context.parameters.get(DIGEST) != driver_sha256(COMPARE_ONNX_WEIGHTS):
        problem = "the plan was made with another version of Enginery's comparison of weights"
        raise UsageError(problem, remedy="make the plan again with this version")
    output = context.scratch / "compared-weights.json"
    places = ("--engine", context.inputs["engine"], "--weights", context.inputs["weights"], "--output", output)
    context.run([str(word) for word in (context.toolchain.python, COMPARE_ONNX_WEIGHTS, *places)], OFFLINE)
    return judge_weights(read_comparison(output), str(context.inputs["engine"]), context)


def read_comparison(path: Path) -> WeightComparison:
    """What the driver wrote."""
    return WeightComparison.model_validate(json.loads(path.read_text(encoding="utf-8")))


def judge_weights(comparison: WeightComparison, engine: str, context: StepContext) -> Facts:
    """Stop at weights that are not the model's, if the model's architecture is understood; else log them.

    Raises:
        WeightsError: when a weight is another one.
    """
    problems = comparison.problems
    if problems and comparison.architecture in UNDERSTOOD:
        raise WeightsError(problems, engine)
    for problem in problems:
        context.log(f"{comparison.architecture} may be built in another form: {problem}")
    sampled = [weight for weight in comparison.compared if weight.share < 1]
    if sampled:
        names = ", ".join(f"{weight.name} ({weight.share:.0%} of its rows)" for weight in sampled)
        context.log(f"compared in a sample: {names}")
    worst = max((weight.error for weight in comparison.compared if weight.name != ROTARY), default=None)
    return {
        "weights_compared": len(comparison.compared),
        "weights_skipped": len(comparison.skipped),
        "weights_error": round(worst, 6) if worst is not None else None,
    }

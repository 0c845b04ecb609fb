"""The functions that steps call, by the names in their recipes. Each is a public name of its room.

A function is imported when it is first called, so that making a plan loads none of them.
"""

from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import cast

from pydantic import JsonValue

from enginery.core.errors import UsageError
from enginery.core.progress import Facts
from enginery.store import Call, Command, StepContext

StepFunction = Callable[[StepContext], Facts]
CommandRunner = Callable[[StepContext, tuple[str, ...], Mapping[str, str]], Facts]
EffectCheck = Callable[[Mapping[str, JsonValue]], bool]
PreparationCheck = Callable[[Mapping[str, JsonValue]], None]

FUNCTIONS = {
    "download": "enginery.sources:download",
    "reference": "enginery.backends:reference_step",
    "validate": "enginery.backends:validate_step",
    "bench": "enginery.backends:bench_step",
    "evaluate": "enginery.backends:evaluate_step",
    "gates": "enginery.backends:gates_step",
    "package": "enginery.triton:package",
    "package_inflight": "enginery.backends:package_inflight",
    "package_llmapi": "enginery.backends:package_llmapi",
    "publish": "enginery.registry:publish",
    "rollout": "enginery.triton:rollout_step",
}
"""The work of internal steps."""

COMMAND_RUNNERS = {
    "convert_checkpoint": "enginery.backends:convert_checkpoint",
    "build_engine": "enginery.backends:build_engine",
    "export_checkpoint": "enginery.backends:export_checkpoint",
}
"""Functions that run the command of an external step, and check its output before it counts."""

EFFECT_CHECKS = {
    "publish": "enginery.registry:is_published",
    "rollout": "enginery.triton:is_serving",
}
"""Functions that say whether a step's change outside the store is still there. If it is not, the step runs again."""

PREPARATION_CHECKS = {
    "reference": "enginery.backends:require_reference_build",
    "publish": "enginery.registry:require_publishable",
    "rollout": "enginery.triton:require_rollout_possible",
}
"""Functions that raise an error, before any work begins, if a step lacks something that it needs outside the store."""


def find_function(name: str) -> StepFunction:
    """The function of an internal step.

    Raises:
        UsageError: when there is no such function: another version of Enginery made the plan.
    """
    return cast("StepFunction", _find(name, FUNCTIONS, "step function"))


def find_command_runner(name: str) -> CommandRunner:
    """The function that runs the command of an external step.

    Raises:
        UsageError: when there is no such function: another version of Enginery made the plan.
    """
    return cast("CommandRunner", _find(name, COMMAND_RUNNERS, "command runner"))


def find_effect_check(recipe: Command | Call) -> EffectCheck | None:
    """The function that says whether the step's change outside the store is there; None if it makes no such change."""
    return cast("EffectCheck | None", _find_for_call(recipe, EFFECT_CHECKS))


def find_preparation_check(recipe: Command | Call) -> PreparationCheck | None:
    """The function that checks for what the step needs outside the store; None if the step needs nothing there."""
    return cast("PreparationCheck | None", _find_for_call(recipe, PREPARATION_CHECKS))


def _find(name: str, addresses: Mapping[str, str], kind: str) -> object:
    if name not in addresses:
        raise UsageError(f"there is no {kind} {name!r}", remedy="make the plan again with this version")
    return resolve_name(addresses[name])


def _find_for_call(recipe: Command | Call, addresses: Mapping[str, str]) -> object:
    address = addresses.get(recipe.function) if isinstance(recipe, Call) else None
    return resolve_name(address) if address else None

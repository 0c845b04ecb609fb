"""The functions that internal steps call, by the name their recipes use.

They are looked up by name and imported when first called, so that making a plan loads none of them.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import cast

from pydantic import JsonValue

from enginery.context import Facts, StepContext
from enginery.errors import UsageError

StepFunction = Callable[[StepContext], Facts]
CommandRunner = Callable[[StepContext, tuple[str, ...], Mapping[str, str]], Facts]
EffectCheck = Callable[[Mapping[str, JsonValue]], bool]
PreparationCheck = Callable[[Mapping[str, JsonValue]], None]

FUNCTIONS = {
    "download": "enginery.sources:download",
    "validate": "enginery.validation:validate",
    "package": "enginery.triton.repository:package",
    "package_inflight": "enginery.triton.inflight:package_inflight",
    "package_llmapi": "enginery.triton.llmapi:package_llmapi",
    "publish": "enginery.registry:publish",
    "rollout": "enginery.triton.rollout:rollout",
}

COMMAND_RUNNERS = {
    "convert_checkpoint": "enginery.backends.tensorrt.converting:convert_checkpoint",
    "build_engine": "enginery.backends.tensorrt.building:build_engine",
    "export_checkpoint": "enginery.backends.pytorch.exporting:export_checkpoint",
}
"""Functions that run an external step's command, and check what it made before it counts."""

EFFECT_CHECKS = {
    "publish": "enginery.registry:is_published",
    "rollout": "enginery.triton.rollout:is_serving",
}
"""Steps that change something outside the store: their records are only believed while the change is still there."""


PREPARATION_CHECKS = {
    "publish": "enginery.registry:require_publishable",
    "rollout": "enginery.triton.rollout:require_readable_policy",
}
"""Steps that need something outside the store: what must hold before the work that leads to them is begun."""


def find_function(name: str) -> StepFunction:
    """The function of that name.

    Raises:
        UsageError: when there is none, as in a plan made by another version of Enginery.
    """
    if name not in FUNCTIONS:
        raise UsageError(f"there is no step function {name!r}", remedy="make the plan again with this version")
    return cast("StepFunction", _load(FUNCTIONS[name]))


def find_command_runner(name: str) -> CommandRunner:
    """The function of that name that runs commands.

    Raises:
        UsageError: when there is none, as in a plan made by another version of Enginery.
    """
    if name not in COMMAND_RUNNERS:
        raise UsageError(f"there is no command runner {name!r}", remedy="make the plan again with this version")
    return cast("CommandRunner", _load(COMMAND_RUNNERS[name]))


def changes_elsewhere(name: str) -> bool:
    """Whether the step changes something outside the store, so that it can have to be done again."""
    return name in EFFECT_CHECKS


def still_holds(name: str, parameters: Mapping[str, JsonValue]) -> bool:
    """Whether what the step did outside the store is still so; always true for a step that only fills the store."""
    if not changes_elsewhere(name):
        return True
    return cast("EffectCheck", _load(EFFECT_CHECKS[name]))(parameters)


def require_prepared(name: str, parameters: Mapping[str, JsonValue]) -> None:
    """Make sure that the step will find what it needs outside the store.

    Raises:
        EngineryError: when it will not; nothing was changed.
    """
    if name in PREPARATION_CHECKS:
        cast("PreparationCheck", _load(PREPARATION_CHECKS[name]))(parameters)


def _load(address: str) -> object:
    module, _, function = address.partition(":")
    return getattr(import_module(module), function)

"""The module `tensorrt_llm`: those names of the release that drivers use."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from enginery.releases.facts import builds_engines
from tests.support.trtllm import facts, home
from tests.support.trtllm.commands.command import greet
from tests.support.trtllm.home import Home
from tests.support.trtllm.misbehaviour import ways_of

NAME = "tensorrt_llm"
PYTORCH_FROM = "1.0.0"
EARLY_PYTORCH_FROM = "0.17.0"
LLMAPI_FROM = "0.15.0"


def install(module: ModuleType, directory: str) -> None:
    """Fill the module of the stand-in in a directory. Modules such as numpy are imported when a name is first used."""
    own = Home(Path(directory))
    own.record(NAME, sys.orig_argv)
    greet(own.release)
    parts = submodules(own.release)
    vars(module)["__path__"] = []
    for part in parts:
        _lazy(f"{NAME}.{part}", own)
    vars(module).update(
        mpi_rank=home.rank,
        mpi_world_size=home.world_size,
        mpi_barrier=lambda: None,
        logger=SimpleNamespace(set_level=lambda _level: None, info=home.log),
        __getattr__=lambda name: _found(own, "", name),
    )


def submodules(release: str) -> tuple[str, ...]:
    """The submodules that both the release and the stand-in have."""
    api = "llmapi" if facts.at_least(release, LLMAPI_FROM) else "hlapi"
    engines = ("runtime",) if builds_engines(release) else ()
    newest = facts.at_least(release, PYTORCH_FROM)
    both = ("_tensorrt_engine",) if engines and newest else ()
    early = ("_torch",) if facts.at_least(release, EARLY_PYTORCH_FROM) and not newest else ()
    return (api, *engines, *both, *early)


def _lazy(name: str, own: Home) -> None:
    part = name.removeprefix(f"{NAME}.")
    made = ModuleType(name)
    vars(made)["__getattr__"] = lambda wanted: _found(own, part, wanted)
    sys.modules[name] = made


def _found(own: Home, part: str, name: str) -> Any:
    if not part and f"{NAME}.{name}" in sys.modules:
        return sys.modules[f"{NAME}.{name}"]
    names = _runtime(own) if part == "runtime" else _api(own, part)
    if name not in names:
        raise AttributeError(f"module '{NAME}{'.' if part else ''}{part}' has no attribute '{name}'")
    return names[name]


def _runtime(own: Home) -> dict[str, Any]:
    from tests.support.trtllm.modules import runtime

    runtime.ModelRunner.own = runtime.SamplingConfig.own = own
    runtime.ModelRunner.ways = ways_of(own, NAME)
    classes = (runtime.ModelRunner, runtime.ModelRunnerCpp, runtime.SamplingConfig)
    return {"PYTHON_BINDINGS": True, **{one.__name__: one for one in classes}}


def _api(own: Home, part: str) -> dict[str, Any]:
    from tests.support.trtllm.modules import llm

    if part == "_torch":
        return llm.pytorch_names(own)
    if part == "_tensorrt_engine" or not facts.at_least(own.release, PYTORCH_FROM):
        return llm.engine_names(own)
    return llm.pytorch_names(own)

"""The arguments of the LLM API for a target: what `llm` says, and what follows from the rest of the spec."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import JsonValue

from enginery.backends.pytorch.graphs import GRAPHS, graph_arguments
from enginery.backends.pytorch.keys import keys
from enginery.backends.pytorch.older import Layout, layout
from enginery.backends.pytorch.renames import SWITCHES, path_in
from enginery.backends.pytorch.setting import Path, Setting, Settings
from enginery.backends.pytorch.sources import FROM_BUILD, FROM_SERVING, KV_CACHE
from enginery.backends.request import Request
from enginery.spec import Precision
from enginery.spec_serving import DEFAULT_BATCH

TRITON = "triton_config"
"""Not the LLM API's: what the served model itself reads, in `llm` as in NVIDIA's `model.yaml`."""
PLAIN = (Precision.FLOAT32, Precision.FLOAT16, Precision.BFLOAT16)


def settings(request: Request, release: str) -> Settings:
    """Every argument but the model's place, by its path from 1.0 on; `llm` wins over the rest."""
    given = {path: Setting(value, f"llm.{'.'.join(path)}") for path, value in _flat(request.llm)}
    found = dict(_elsewhere(request))
    graphs = any(path[0] == GRAPHS for path in given)
    if graphs or layout(release) is Layout.OBJECTS:  # before 1.0 they are off unless asked for
        found |= dict(graph_arguments(given, _batch(given, found)))
    switched_off = {path[:1] for path, setting in given.items() if len(path) == 1 and setting.value is None}
    kept = {path: setting for path, setting in found.items() if path[:1] not in switched_off or setting.given}
    return {**kept, **given}


def clashes(request: Request) -> Iterator[tuple[Setting, Setting]]:
    """Arguments that `llm` and another field of the spec say differently."""
    elsewhere = dict(_elsewhere(request))
    for path, value in _flat(request.llm):
        other = elsewhere.get(path)
        if other is not None and other.given and other.value != value:
            yield Setting(value, f"llm.{'.'.join(path)}"), other


def placed(release: str, found: Settings) -> dict[Path, Setting]:
    """The settings by their paths in the release; those of ours that it has no key for are left out."""
    where = layout(release)
    moved: dict[Path, Setting] = {}
    for path, setting in found.items():
        here = path_in(path, release, where)
        if here != path and path[0] in SWITCHES:
            switch = path_in(path[:1], release, where)
            moved[switch] = Setting(setting.value is not None, setting.field, setting.given)
            if len(path) == 1:
                continue
        if setting.given or here[0] in keys(release).value:
            moved[here] = Setting(setting.value, setting.field, setting.given)
    return moved


def nested(found: Mapping[Path, Setting]) -> dict[str, JsonValue]:
    """The settings as the objects that the LLM API takes."""
    made: dict[str, Any] = {}
    for path, setting in found.items():
        if len(path) == 1:
            made.setdefault(path[0], setting.value)
        else:
            there = made.get(path[0])
            made[path[0]] = {**(there if isinstance(there, dict) else {}), path[1]: setting.value}
    return made


def arguments_of(request: Request, release: str) -> dict[str, JsonValue]:
    """All arguments but the model's place, under the release's names."""
    return nested(placed(release, settings(request, release)))


def max_batch_size(request: Request) -> int:
    """Most requests that run together."""
    given = {path: Setting(value, "") for path, value in _flat(request.llm)}
    return _batch(given, dict(_elsewhere(request)))


def _batch(given: Settings, found: Settings) -> int:
    value = (given.get(("max_batch_size",)) or found[("max_batch_size",)]).value
    return value if isinstance(value, int) else DEFAULT_BATCH


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
    """Each key, and each key within an object, with its value; Triton's part left out."""
    for name, value in values.items():
        if name == TRITON:
            continue
        if isinstance(value, dict) and value:
            yield from (((name, inner), item) for inner, item in value.items())
        else:
            yield (name,), value


def _elsewhere(request: Request) -> Iterator[tuple[Path, Setting]]:
    target = request.target
    yield ("tensor_parallel_size",), Setting(target.tensor_parallel, "tensor_parallel")
    yield ("pipeline_parallel_size",), Setting(target.pipeline_parallel, "pipeline_parallel")
    yield ("dtype",), Setting(_dtype(request), "precision")
    yield from _from_fields(request.build, "build", FROM_BUILD)
    yield from _from_fields(request.serving, "serving", FROM_SERVING)
    yield ("max_batch_size",), _largest_batch(request)
    yield from _lengths(request)
    if request.convert.kv_cache != "auto":
        yield (KV_CACHE, "dtype"), Setting(request.convert.kv_cache, "convert.kv_cache")


def _dtype(request: Request) -> str:
    """Of quantized weights the checkpoint says it."""
    return str(request.target.precision) if request.target.precision in PLAIN else "auto"


def _largest_batch(request: Request) -> Setting:
    """The smaller of what the server and the engine may take, as where the two are apart; ours where none is said."""
    said = {"serving": request.serving.max_batch_size, "build": request.build.max_batch_size}
    given = [Setting(value, f"{section}.max_batch_size") for section, value in said.items() if value is not None]
    ours = Setting(DEFAULT_BATCH, "serving.max_batch_size", given=False)
    return min(given, key=lambda setting: int(setting.value), default=ours)


def _from_fields(options: Any, section: str, paths: Mapping[str, Path]) -> Iterator[tuple[Path, Setting]]:
    for field, path in paths.items():
        value = getattr(options, field, None)
        if value is not None:
            yield path, Setting(_said(field, value), f"{section}.{field}")


def _said(field: str, value: Any) -> Any:
    if field == "scheduler_policy":
        return value.upper()
    if field == "max_attention_window_size":
        return list(value) if isinstance(value, tuple) else [value]
    return value


def _lengths(request: Request) -> Iterator[tuple[Path, Setting]]:
    """Up to 0.11 lengths are those of prompt and answer; the LLM API knows that of both together."""
    build = request.build
    prompt, answer = build.max_input_len, build.max_output_len
    if build.max_seq_len is None and prompt is not None and answer is not None:
        yield ("max_seq_len",), Setting(prompt + answer, "build.max_output_len")

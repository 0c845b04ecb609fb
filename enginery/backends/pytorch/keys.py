"""Which keys the LLM API of a release takes, and how sure that is."""

import ast
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Literal, NotRequired, Required, Union

from packaging.version import Version
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from enginery.releases import PYTORCH, Argument, Certainty, Known, Provenance, arguments, builds_engines, classes

# The LLM API's keys before 1.0, which `enginery.releases` has no facts of.
#
# Up to 0.20 the PyTorch backend's own keys stood under `pytorch_backend_config`; in 0.21 they stood at the top (pull
# request 4603 of TensorRT-LLM); from 1.0 on many are gathered in objects of their own (5014, 6003). The names are those
# of the class `PyTorchConfig` in two states of its history, read by eye, not at the releases' tags.


NESTED = "pytorch_backend_config"
NESTED_CLASS = "PyTorchConfig"


class Layout(StrEnum):
    """Where the PyTorch backend's own keys stand."""

    NESTED = "nested"
    FLAT = "flat"
    OBJECTS = "objects"


def layout(release: str) -> Layout:
    """The layout of a release."""
    number = Version(release).release
    if number >= (1, 0):
        return Layout.OBJECTS
    return Layout.FLAT if number >= (0, 21) else Layout.NESTED


COMMON = {
    "use_cuda_graph": "bool",
    "cuda_graph_batch_sizes": "Optional[List[int]]",
    "cuda_graph_max_batch_size": "int",
    "cuda_graph_padding_enabled": "bool",
    "attn_backend": "str",
    "kv_cache_dtype": "str",
    "enable_iter_perf_stats": "bool",
    "print_iter_log": "bool",
    "torch_compile_enabled": "bool",
    "torch_compile_fullgraph": "bool",
    "torch_compile_inductor_enabled": "bool",
    "torch_compile_enable_userbuffers": "bool",
    "enable_layerwise_nvtx_marker": "bool",
    "load_format": "str",
}
UNTIL_0_19 = {
    "enable_overlap_scheduler": "bool",
    "mixed_decoder": "bool",
    "enable_trtllm_decoder": "bool",
    "use_kv_cache": "bool",
}
FROM_0_20 = {
    "disable_overlap_scheduler": "bool",
    "moe_max_num_tokens": "Optional[int]",
    "moe_load_balancer": "object",
    "moe_backend": "str",
    "mixed_sampler": "bool",
    "enable_trtllm_sampler": "bool",
    "enable_iter_req_stats": "bool",
    "torch_compile_piecewise_cuda_graph": "bool",
    "autotuner_enabled": "bool",
    "enable_min_latency": "bool",
    "allreduce_strategy": "str",
    "stream_interval": "int",
}
KV_CACHE = {
    "enable_block_reuse": "bool",
    "max_tokens": "Optional[int]",
    "max_attention_window": "Optional[List[int]]",
    "sink_token_length": "Optional[int]",
    "free_gpu_memory_fraction": "Optional[float]",
    "host_cache_size": "Optional[int]",
    "onboard_blocks": "bool",
    "cross_kv_cache_fraction": "Optional[float]",
    "secondary_offload_min_priority": "Optional[int]",
    "event_buffer_max_size": "int",
    "enable_partial_reuse": "bool",
    "copy_on_partial_reuse": "bool",
}


def own_keys(release: str) -> Mapping[str, Argument]:
    """The PyTorch backend's own keys before 1.0."""
    later = FROM_0_20 if Version(release).release >= (0, 20) else UNTIL_0_19
    return _arguments({**COMMON, **later})


def kv_cache_keys() -> Mapping[str, Argument]:
    """The keys of `kv_cache_config` before 1.0."""
    return _arguments(KV_CACHE)


def _arguments(annotations: Mapping[str, str]) -> Mapping[str, Argument]:
    return {name: Argument(name, annotation) for name, annotation in annotations.items()}


BASE = "BaseLlmArgs"
FIRST_CLASS = "LlmArgs"
FIRST_RELEASE = "0.16.0"
"""The last release before the backend: the nearest to those whose keys are nested."""
OBJECTS_RELEASE = "1.3.0rc3"
REMOVED_WITH_ENGINES = frozenset({"sampler_type"})
KV_CACHE_CLASS = "KvCacheConfig"

Keys = Mapping[str, Argument]


@lru_cache
def keys(release: str) -> Known[Keys]:
    """The keys at the top of a release's LLM API."""
    where = layout(release)
    if where is Layout.NESTED:
        found = arguments(FIRST_RELEASE, FIRST_CLASS)
        nested = Argument(NESTED, f"Optional[{NESTED_CLASS}]")
        backend = Argument("backend", "Optional[str]")
        return Known({**found.value, "backend": backend, NESTED: nested}, _nearest(found, release))
    if where is Layout.FLAT:
        found = arguments(OBJECTS_RELEASE, BASE)
        return Known({**found.value, **own_keys(release)}, _nearest(found, release))
    found = arguments(release, PYTORCH)
    if builds_engines(release):
        return found
    newer = arguments(release, BASE)
    merged = {**newer.value, **found.value}
    return Known({name: merged[name] for name in merged if name not in REMOVED_WITH_ENGINES}, newer.provenance)


@lru_cache
def class_keys(release: str, name: str) -> Keys:
    """The keys of a class of arguments; none where nothing is known of it."""
    where = layout(release)
    if where is not Layout.OBJECTS:
        if name == NESTED_CLASS:
            return own_keys(release)
        if name == KV_CACHE_CLASS:
            return kv_cache_keys()
    known = FIRST_RELEASE if where is Layout.NESTED else OBJECTS_RELEASE if where is Layout.FLAT else release
    return arguments(known, name).value if name in classes() else {}


def _nearest(found: Known[Mapping[str, Argument]], release: str) -> Provenance:
    origin = found.provenance
    note = f"known of {origin.release} ({origin.certainty}), not of {release}; the backend's own keys were read by eye"
    return Provenance(Certainty.NEAREST, origin.release, origin.source, origin.method, note)


def is_certain(release: str) -> bool:
    """Whether the keys are those of this very release."""
    return Version(keys(release).provenance.release) == Version(release)


# One argument of the LLM API, and where in the spec it comes from.


Path = tuple[str, ...]
"""A key, and the key within the object it names."""


@dataclass(frozen=True)
class Setting:
    """One argument.

    Attributes:
        value: its value.
        field: the field of the spec that says so, within the target.
        given: whether the user wrote it, rather than that it follows from a default of ours.
    """

    value: Any
    field: str
    given: bool = True


Settings = Mapping[Path, Setting]


# Checks arguments of the LLM API against what is known of a release's: unknown keys, wrong types and choices.
#
# The classes of arguments become typed dictionaries for pydantic. A type that is not plain, such as a tokenizer's
# class,
# is not checked.


PLAIN: Mapping[str, Any] = {
    "bool": bool,
    "int": int,
    "float": float,
    "str": str,
    "Path": str,
    "None": None,
    "dict": dict[str, Any],
}
CHOICES: Mapping[str, tuple[str, ...]] = {
    "CapacitySchedulerPolicy": ("GUARANTEED_NO_EVICT", "MAX_UTILIZATION", "STATIC_BATCH"),
    "ContextChunkingPolicy": ("FIRST_COME_FIRST_SERVED", "EQUAL_PROGRESS"),
}
"""Enumerations of the runtime's own, by the names of their members."""
KINDS: Mapping[str, tuple[str, str]] = {
    "SpeculativeConfig": ("decoding_type", "DecodingConfig"),
    "SparseAttentionConfig": ("algorithm", "SparseAttentionConfig"),
}
"""Type that is one of several classes -> the key that says which, and how their names end."""
CONSTANT = "ClassVar"
UNKNOWN = "extra_forbidden"


@dataclass(frozen=True)
class Mistake:
    """Something a release's LLM API would refuse.

    Attributes:
        path: the key, within the arguments.
        problem: what is wrong with it.
        near: keys that look like it.
        unknown: whether there is no such key.
    """

    path: Path
    problem: str
    near: tuple[str, ...] = ()
    unknown: bool = False


def mistakes(release: str, values: Mapping[str, Any]) -> list[Mistake]:
    """Everything in the arguments that the release would refuse."""
    try:
        _adapter(release).validate_python(dict(values))
    except ValidationError as error:
        return [_mistake(release, values, found) for found in error.errors(include_url=False)]
    return []


def _mistake(release: str, values: Mapping[str, Any], found: Any) -> Mistake:
    path = tuple(_without_tags(values, found["loc"]))
    if found["type"] == UNKNOWN:
        there = tuple(_keys_at(release, path[:-1]))
        near = tuple(difflib.get_close_matches(path[-1], there, n=3))
        return Mistake(path, "there is no such key", near, unknown=True)
    said = str(found["msg"]).removeprefix("Input ").replace("should", "must")
    value = "" if found["type"] == "missing" else f"{found['input']!r} "
    return Mistake(path, f"{value}{said[0].lower()}{said[1:]}")


def _without_tags(values: Any, place: tuple[int | str, ...]) -> Iterator[str]:
    """The path of a mistake without what pydantic calls the branches of a union."""
    there = values
    for number, part in enumerate(place):
        inside = isinstance(there, dict) and part in there
        listed = isinstance(there, list) and isinstance(part, int) and part < len(there)
        if inside or listed:
            there = there[part]
        if inside or listed or number == len(place) - 1:
            yield str(part)


def _keys_at(release: str, path: Path) -> Keys:
    """The keys of the object at a path, for suggestions."""
    there: Keys = keys(release).value
    for part in path:
        if part not in there:
            break
        there = _named_class(release, there[part]) or there
    return there


def _named_class(release: str, argument: Argument) -> Keys:
    text = f"{argument.annotation} {argument.default_factory}"
    found = [name for name in sorted(classes(), key=len, reverse=True) if name in text]
    return class_keys(release, found[0]) if found else {}


@lru_cache
def _adapter(release: str) -> TypeAdapter[Any]:
    return TypeAdapter(_dictionary(release, "LLM", keys(release).value, required=False))


def _dictionary(release: str, name: str, there: Keys, *, required: bool = True) -> Any:
    fields = {key: _field(release, argument, required=required) for key, argument in there.items()}
    make: Any = TypedDict  # its fields are known only now
    made = make(name, fields, total=False)
    return with_config(ConfigDict(extra="forbid", strict=True))(made)


def _field(release: str, argument: Argument, *, required: bool) -> Any:
    kind = _type(release, argument)
    return Required[kind] if required and argument.required else NotRequired[kind]


def _type(release: str, argument: Argument) -> Any:
    if argument.annotation.startswith(CONSTANT):
        return Literal[argument.default]
    if argument.choices:
        choices = Literal[tuple(argument.choices)]  # type: ignore[valid-type]
        return choices if argument.default is not None else choices | None
    text = argument.annotation or argument.default_factory
    return _parsed(release, ast.parse(text, mode="eval").body) if text else Any


def _parsed(release: str, node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and node.value is None:
        return None
    if isinstance(node, ast.Name):
        return _named(release, node.id)
    if isinstance(node, ast.BinOp):
        return _union(release, [node.left, node.right])
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return _generic(release, node.value.id, list(inner))
    return Any


def _generic(release: str, outer: str, inner: list[ast.expr]) -> Any:
    if outer == "Literal":
        return Literal[tuple(ast.literal_eval(each) for each in inner)]
    if outer == "Optional":
        return _or_none(_parsed(release, inner[0]))
    if outer == "Union":
        return _union(release, inner)
    if outer in {"List", "list", "Set"}:  # YAML has no sets
        return list[_parsed(release, inner[0])]  # type: ignore[misc]
    if outer in {"Dict", "dict"}:
        return dict[_parsed(release, inner[0]), _parsed(release, inner[1])]  # type: ignore[misc]
    return Any


def _or_none(kind: Any) -> Any:
    return Any if kind is Any else Union[kind, None]  # noqa: UP007  `|` does not take a typed dictionary


def _union(release: str, nodes: list[ast.expr]) -> Any:
    """Of several types only those that YAML can say count."""
    if any(isinstance(node, ast.Name) and node.id in {"object", "Any"} for node in nodes):
        return Any
    kinds = [kind for node in nodes if (kind := _parsed(release, node)) is not Any]
    return Union[tuple(kinds)] if kinds else Any  # noqa: UP007


def _named(release: str, name: str) -> Any:
    if name in PLAIN:
        return PLAIN[name]
    if name in CHOICES:
        return Literal[CHOICES[name]]
    if name in KINDS:
        return _one_of(release, *KINDS[name])
    there = class_keys(release, name)
    return _dictionary(release, name, there) if there else Any


def _one_of(release: str, key: str, ending: str) -> Any:
    """One of the classes that a constant tells apart; null as well."""
    found = []
    for name in classes():
        there = class_keys(release, name)
        if name.endswith(ending) and key in there and there[key].default:
            constant = Argument(key, f"{CONSTANT}[str]", there[key].default, required=True)
            found.append(_dictionary(release, name, {**there, key: constant}))
    if not found:
        return Any
    kinds: Any = Union[tuple(found)]  # noqa: UP007
    return _or_none(Annotated[kinds, Field(discriminator=key)] if len(found) > 1 else kinds)

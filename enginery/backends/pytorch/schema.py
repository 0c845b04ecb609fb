"""Checks arguments of the LLM API against the facts of a release: unknown keys, wrong types and choices.

The release's classes of arguments become typed dictionaries for pydantic. A type that YAML cannot express, such as a
tokenizer's class, is not checked.
"""

import ast
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal, NotRequired, Required, Union

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from enginery.backends.pytorch.keys import Keys, Path, class_keys, keys
from enginery.releases import Argument, classes

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
"""Enumerations of the runtime -> the names of their members."""

KINDS: Mapping[str, tuple[str, str]] = {
    "SpeculativeConfig": ("decoding_type", "DecodingConfig"),
    "SparseAttentionConfig": ("algorithm", "SparseAttentionConfig"),
}
"""Type that stands for several classes -> the key that tells which class, and the end of the classes' names."""
DISPATCHED: Mapping[str, str] = {"Draft_Target": "DraftTarget", "User_Provided": "UserProvided"}
"""Constant of a class of speculative decoding -> the name by which arguments choose the class."""

ALIASES: Mapping[str, str] = {"speculative_model": "speculative_model_dir"}
"""Key -> the other name that it can be given by."""
LOWER = ("sparse_attention_config", "algorithm")
"""A choice that can be written in capitals, too."""
DIGITS = Annotated[str, Field(pattern=r"^\d+$")]
"""A number as the key of a mapping, as JSON writes it."""
CONSTANT = "ClassVar"
UNKNOWN = "extra_forbidden"


@dataclass(frozen=True)
class Mistake:
    """Something a release's LLM API would refuse.

    Attributes:
        path: the path of the key, within the arguments.
        near: known keys with similar names.
        unknown: whether the release has no such key.
    """

    path: Path
    problem: str
    near: tuple[str, ...] = ()
    unknown: bool = False


def mistakes(release: str, values: Mapping[str, Any]) -> list[Mistake]:
    """Everything in the arguments that the release would refuse because of its key, type or choice."""
    found = list(_named_twice(values))
    try:
        _adapter(release).validate_python(_lowered(values))
    except ValidationError as error:
        found += [_mistake(release, values, one) for one in error.errors(include_url=False)]
    return found


def _lowered(values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with the algorithm of sparse attention in small letters, as the release reads it."""
    outer, inner = LOWER
    config = values.get(outer)
    if not isinstance(config, Mapping) or not isinstance(config.get(inner), str):
        return dict(values)
    return {**values, outer: {**config, inner: config[inner].lower()}}


def _named_twice(values: Mapping[str, Any]) -> Iterator[Mistake]:
    for outer, config in values.items():
        for name, alias in ALIASES.items() if isinstance(config, Mapping) else ():
            if name in config and alias in config:
                yield Mistake((outer, alias), f"is another name of {name}, which is given, too")


def _mistake(release: str, values: Mapping[str, Any], found: Any) -> Mistake:
    path = tuple(_without_tags(values, found["loc"]))
    if found["type"] == UNKNOWN:
        known = tuple(_keys_at(release, path[:-1]))
        near = tuple(difflib.get_close_matches(path[-1], known, n=3))
        return Mistake(path, "there is no such key", near, unknown=True)
    text = str(found["msg"]).removeprefix("Input ").replace("should", "must")
    value = "" if found["type"] == "missing" else f"{found['input']!r} "
    return Mistake(path, f"{value}{text[0].lower()}{text[1:]}")


def _without_tags(values: Any, place: tuple[int | str, ...]) -> Iterator[str]:
    """The path of a mistake, without the names that pydantic gives to the branches of a union."""
    value = values
    for number, part in enumerate(place):
        inside = isinstance(value, dict) and part in value
        listed = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if inside or listed:
            value = value[part]
        if inside or listed or number == len(place) - 1:
            yield str(part)


def _keys_at(release: str, path: Path) -> Keys:
    """The keys of the object at a path, for suggestions."""
    known: Keys = keys(release).value
    longest_first = sorted(classes(), key=len, reverse=True)
    for part in path:
        if part not in known:
            break
        text = f"{known[part].annotation} {known[part].default_factory}"
        named = next((name for name in longest_first if name in text), "")
        known = class_keys(release, named) or known
    return known


@lru_cache
def _adapter(release: str) -> TypeAdapter[Any]:
    return TypeAdapter(_dictionary(release, "LLM", keys(release).value, required=False))


def _dictionary(release: str, name: str, known: Keys, *, required: bool = True) -> Any:
    fields: dict[str, Any] = {}
    for key, argument in known.items():
        kind = _type(release, argument)
        fields[key] = Required[kind] if required and argument.required else NotRequired[kind]
        if key in ALIASES:
            fields[ALIASES[key]] = NotRequired[kind]
    make: Any = TypedDict  # its fields are known only now
    made = make(name, fields, total=False)
    return with_config(ConfigDict(extra="forbid", strict=True))(made)


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
        key = _parsed(release, inner[0])
        return dict[key | DIGITS if key is int else key, _parsed(release, inner[1])]  # type: ignore[misc]
    return Any


def _or_none(kind: Any) -> Any:
    return Any if kind is Any else Union[kind, None]  # noqa: UP007  `|` does not take a typed dictionary


def _union(release: str, nodes: list[ast.expr]) -> Any:
    """A union of several types. Types that YAML cannot express are left out."""
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
    known = class_keys(release, name)
    return _dictionary(release, name, known) if known else Any


def _one_of(release: str, key: str, ending: str) -> Any:
    """A union of the classes whose names have this ending, and null. Each class has another constant at `key`."""
    found = []
    for name in classes():
        known = class_keys(release, name)
        if name.endswith(ending) and key in known and known[key].default:
            default = str(known[key].default)
            constant = Argument(key, f"{CONSTANT}[str]", DISPATCHED.get(default, default), required=True)
            found.append(_dictionary(release, name, {**known, key: constant}))
    if not found:
        return Any
    kinds: Any = Union[tuple(found)]  # noqa: UP007
    return _or_none(Annotated[kinds, Field(discriminator=key)] if len(found) > 1 else kinds)

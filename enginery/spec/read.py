"""Reads a spec file: parses its YAML, applies values from the command line, and makes its paths absolute."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from enginery.core.errors import SpecError
from enginery.spec.spec import Spec, parse_spec

SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""PyYAML's loader in C, if it is installed: it is ten times as fast, which matters for a spec with many targets."""
PATHS = (
    "source.path",
    "convert.examples",
    "convert.calibration.dataset",
    "validation.reference.texts",
    "validation.gates.evaluation.run.*.script",
)
"""Fields that may have a path relative to the spec file; `*` stands for every entry of a list."""


def read_spec(path: Path, overrides: tuple[str, ...] = ()) -> Spec:
    """Read a spec file.

    Args:
        path: the file. Relative paths in it are relative to its directory.
        overrides: fields with YAML values that replace those of the file, such as `rollout.target=int4`.

    Raises:
        SpecError: when the file cannot be read, is not YAML, or has mistakes.
    """
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise SpecError(["must be a mapping with the fields name, source and targets"], subject=str(path))
    for override in overrides:
        _override(data, override)
    _make_absolute(data, path.parent)
    return parse_spec(data, subject=str(path))


def accepting(spec: Spec, codes: Sequence[str]) -> Spec:
    """The spec, which also accepts the warnings with these codes.

    Raises:
        SpecError: when one of `codes` is not the code of a warning.
    """
    if not codes:
        return spec
    given = spec.model_dump(mode="json", exclude_unset=True)
    return parse_spec({**given, "force": [*spec.force, *codes]}, subject="--force")


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, as plain data.

    Raises:
        SpecError: when the file cannot be read or is not YAML.
    """
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        return _loaded(text)
    except OSError as error:
        raise SpecError([f"cannot be read: {error.strerror}"], subject=str(path)) from error
    except (yaml.YAMLError, ValueError) as error:  # PyYAML raises a ValueError for a date such as 2024-13-01
        raise SpecError([f"is not YAML: {_yaml_mistake(error, text)}"], subject=str(path)) from error


def _loaded(text: str) -> Any:
    """The plain data of a YAML text. Of two equal keys, PyYAML alone would take the last, without a word."""
    loader = SAFE_LOADER(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_keys(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_keys(root: yaml.Node) -> None:
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            _check_unique([key for key, _ in node.value])
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _check_unique(keys: list[yaml.Node]) -> None:
    names = set()
    for key in keys:
        if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in names:
            problem = f"the field {key.value!r} is given twice; keep one"
            raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        names.add((key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key))


def _override(data: dict[str, Any], override: str) -> None:
    dotted, equals, value = override.partition("=")
    if not equals or not dotted:
        raise SpecError([f"--set {override!r} is not of the form field.name=value"], subject="--set")
    *parents, last = dotted.split(".")
    try:
        holder: Any = data
        for parent in parents:
            holder = holder[int(parent)] if isinstance(holder, list) else holder.setdefault(parent, {})
        holder[int(last) if isinstance(holder, list) else last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise SpecError([f"--set {override!r} is not YAML: {_yaml_mistake(error, value)}"], subject="--set") from error
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise SpecError([f"--set {override!r} does not fit this spec: {error}"], subject="--set") from error


def _make_absolute(data: dict[str, Any], base: Path) -> None:
    targets = data.get("targets")
    for part in [data, *(targets if isinstance(targets, list) else [])]:
        for dotted in PATHS:
            *parents, last = dotted.split(".")
            for holder in _holders(part, parents):
                if isinstance(holder.get(last), str):
                    path = base / Path(holder[last]).expanduser()
                    # A data set may also be a name that its converter knows, such as `cnn_dailymail`.
                    holder[last] = str(path.resolve()) if last != "dataset" or path.exists() else holder[last]


def _holders(part: Any, parents: Sequence[str]) -> list[dict[str, Any]]:
    """The mappings at a path of the spec; none if it has no such part."""
    found = [part]
    for name in parents:
        if name == "*":
            found = [entry for one in found if isinstance(one, list) for entry in one]
        else:
            found = [one[name] for one in found if isinstance(one, dict) and name in one]
    return [one for one in found if isinstance(one, dict)]


def _yaml_mistake(error: yaml.YAMLError | ValueError, text: str) -> str:
    """What is wrong with a text that is not YAML, with line and column, counted from 1."""
    if isinstance(error, UnicodeDecodeError):
        return f"byte 0x{error.object[error.start]:02X} at position {error.start} is not UTF-8; save the file as UTF-8"
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        context = f" ({error.context})" if error.context else ""
        return f"{where}{error.problem or error.context}{context if error.problem else ''}"
    forbidden = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if isinstance(error, yaml.reader.ReaderError) and forbidden:
        before = text[: forbidden.start()]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        return f"line {line}, column {column}: the character U+{ord(forbidden[0]):04X} is not allowed"
    return str(error)

"""Messages about a spec: mistakes that are seen when it is read, and findings of the plan, before anything runs.

A mistake is a sentence that begins with the path of its field. A finding has a code, numbers and a remedy. Its level is
error or warning. An error stops the plan. A warning stops it too, unless the spec accepts its code (`force`, or
`--force CODE`). The codes are listed in docs/tensorrt-llm.md.
"""

import datetime as dt
import difflib
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from pydantic import ValidationError

from enginery.core.text import MASK, SIGN_IN
from enginery.spec.build import FLAGS_ELSEWHERE
from enginery.spec.types import IN_WORDS, SpecModel

CODE_AT_END = re.compile(r"\[([EW]\d{3})\]$")
NEAR_SIBLING = 0.7
"""For an unknown field, a field of the same part of the spec is suggested if it is this similar (0 to 1)."""
NEAR_ELSEWHERE = 0.9
"""The same for a field of another part of the spec."""
UNION_TAGS = {"constrained-str", "str"}
"""Pydantic adds one of these to the path of a field whose type is a union of text types."""


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or likely to go wrong.

    Attributes:
        code: `E` or `W` and three digits.
        path: the field of the spec that it is about.
        problem: what was found, with the numbers.
        remedy: what to do, in the imperative.
        level: a warning can be accepted, an error cannot.
    """

    code: str
    path: str
    problem: str
    remedy: str = ""
    level: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        then = f"; {self.remedy}" if self.remedy else ""
        accept = f", or accept it with --force {self.code}" if self.level == "warning" else ""
        return f"{self.path}: {self.problem}{then}{accept} [{self.code}]"

    def under(self, prefix: str) -> "Finding":
        """The same finding with `prefix` before its path, such as the path of a target."""
        return replace(self, path=f"{prefix}{self.path}")


def code_of(sentence: str) -> str:
    """The code at the end of a finding's sentence; empty if the sentence has none."""
    found = CODE_AT_END.search(sentence)
    return found[1] if found else ""


def warning(code: str, path: str, problem: str, remedy: str = "") -> Finding:
    """A finding that can be accepted."""
    return Finding(code, path, problem, remedy, "warning")


def stopping(findings: Iterable[Finding], accepted: Collection[str]) -> list[Finding]:
    """The findings that stop a plan: all except the warnings with an accepted code."""
    return [finding for finding in findings if finding.level == "error" or finding.code not in accepted]


def sentences(error: ValidationError, model: type[SpecModel]) -> list[str]:
    """One sentence for each mistake. If items of a list are wrong, it is not also reported that the list is too short.

    Args:
        error: what pydantic found.
        model: the whole spec.
    """
    items = error.errors()
    places = [item["loc"] for item in items]
    found = []
    for item in items:
        depth = len(item["loc"])
        inside = [place for place in places if len(place) > depth and place[:depth] == item["loc"]]
        if item["type"] != "too_short" or not inside:
            location = item["loc"][:-1] if UNION_TAGS.intersection(item["loc"][-1:]) else item["loc"]
            path = ".".join(str(part) for part in location) or "spec"
            found.append(f"{path}: {SIGN_IN.sub(MASK, _problem(item, location, model))}")
    return list(dict.fromkeys(found))


def _problem(item: Any, location: tuple[str | int, ...], model: type[SpecModel]) -> str:
    given = item.get("input")
    match item["type"]:
        case "extra_forbidden":
            return f"unknown field{_suggestion(location, model)}"
        case "missing":
            return "missing"
        case "value_error":
            return str(item["msg"]).removeprefix("Value error, ")
        case "string_type" | "tuple_type":
            return _of_another_type(given, location[-1], item["type"])
        case "string_pattern_mismatch" if item["ctx"]["pattern"] in IN_WORDS:
            return f"{given!r} {IN_WORDS[item['ctx']['pattern']]}"
    shown = f" (given {given!r})" if isinstance(given, str | int | float | bool) or given is None else ""
    return f"{item['msg']}{shown}"


def _of_another_type(given: object, field: str | int, kind: str) -> str:
    """The message for a single value in place of a list, or for a value that is not text in YAML, such as `9.9`."""
    if kind == "tuple_type":
        return "must be a list" + (f", such as [{given}] (given {given!r})" if isinstance(given, str) else "")
    if given is None:
        return "has no value; give one, or remove the field"
    if isinstance(given, bool):  # the file has yes, no, on, off, true or false; the parsed value does not say which
        return f"YAML reads this as {str(given).lower()}, not as text; put it in quotes"
    if isinstance(given, int | float | dt.date):
        quoted = f'"{given}"' if isinstance(field, int) else f'{field}: "{given}"'
        kind = "a number" if isinstance(given, int | float) else "a date"
        # The digits of a commit may be an octal number in YAML. So the parsed value may not be what was written.
        how = f"put it in quotes, such as {quoted}" if field == "revision" else f"quote it: {quoted}"
        return f"YAML reads this as {kind}, not as text; {how}"
    return "must be a text"


def _suggestion(location: tuple[str | int, ...], model: type[SpecModel]) -> str:
    """For an unknown field: how to set it, if it is a flag of `trtllm-build`, or the field that was probably meant."""
    *parents, unknown = [part for part in location if isinstance(part, str)]
    if parents[-1:] == ["build"] and unknown in FLAGS_ELSEWHERE:
        return f"; {FLAGS_ELSEWHERE[unknown]}"
    fields = list(_fields(model))
    siblings = [path[-1] for path in fields if path[:-1] == tuple(parents)]
    if near := difflib.get_close_matches(unknown, siblings, n=1, cutoff=NEAR_SIBLING):
        return f"; did you mean {near[0]}?"
    elsewhere = {path[-1]: ".".join(path) for path in sorted(fields, key=len, reverse=True)}
    near = difflib.get_close_matches(unknown, elsewhere, n=1, cutoff=NEAR_ELSEWHERE)
    return f"; did you mean {elsewhere[near[0]]}?" if near else ""


def _fields(annotation: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every field in a type: a part of a spec, or a type that contains parts. Lists add nothing to it."""
    for inner in get_args(annotation):
        yield from _fields(inner, path)
    if isinstance(annotation, type) and issubclass(annotation, SpecModel):
        for name, field in annotation.model_fields.items():
            yield (*path, name)
            yield from _fields(field.annotation, (*path, name))

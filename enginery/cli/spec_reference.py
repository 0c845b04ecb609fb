"""Writes the reference and the JSON schema of specs, made from `Spec`: `python -m enginery.cli.spec_reference DIR`.

A test compares the files in docs/ with this module's output, so they are never out of date.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from enginery.core.files import write_atomic
from enginery.spec import Spec

REFERENCE_NAME = "spec.md"
SCHEMA_NAME = "spec.schema.json"

ANYTHING = "JsonValue"
"""The schema's name for a value of any kind. The reference does not describe it."""

INTRODUCTION = """# The spec, field by field

<!-- Generated from enginery/spec/ by `make docs`; edit the docstrings there. -->

A spec is one YAML file. `enginery plan SPEC` checks it and reports every mistake at once. Editors complete and
check it with [spec.schema.json](spec.schema.json): put
`# yaml-language-server: $schema=<path to spec.schema.json>` in its first line. Examples: `infra/models/`.
"""


def schema() -> dict[str, Any]:
    """The JSON schema of a spec file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Spec.model_json_schema()}


def reference() -> str:
    """The reference in Markdown: one table for each part of a spec."""
    described = schema()
    parts = [INTRODUCTION, *_part("Spec", described)]
    for name, part in described["$defs"].items():
        parts += _part(name, part) if name != ANYTHING else ()
    return "\n".join(parts).rstrip() + "\n"


def _part(name: str, part: dict[str, Any]) -> Iterator[str]:
    # What may be written in a shorter form, too, is described in full.
    part = next((one for one in part.get("anyOf", ()) if "properties" in one), part)
    yield f"## {name}\n"
    yield f"{part.get('description', '')}\n"
    if "enum" in part:
        yield "One of " + ", ".join(f"`{value}`" for value in part["enum"]) + ".\n"
        return
    yield "| field | type | default | meaning |"
    yield "|---|---|---|---|"
    required = set(part.get("required", ()))
    for field, details in part["properties"].items():
        default = "**required**" if field in required else f"`{json.dumps(details.get('default'))}`"
        meaning = " ".join(details.get("description", "").split())
        yield f"| `{field}` | {_type(details)} | {_default(default, details)} | {meaning} |"
    yield ""


def _default(shown: str, details: dict[str, Any]) -> str:
    if "default" not in details and "required" not in shown:
        return "`{}`"
    if isinstance(details.get("default"), dict) and details["default"]:
        return "its own defaults"
    return "" if shown == "`null`" else shown


def _type(details: dict[str, Any]) -> str:
    if "$ref" in details:
        name = details["$ref"].rsplit("/", 1)[-1]
        return "any" if name == ANYTHING else f"[{name}](#{name.lower()})"
    if "anyOf" in details:
        kinds = [_type(item) for item in details["anyOf"] if item.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if details.get("type") == "array":
        return f"list of {_type(details['items'])}"
    if details.get("type") == "object":
        return "mapping"
    if "enum" in details:
        return " ".join(f"`{value}`" for value in details["enum"])
    return str(details.get("type", "any"))


def write(directory: Path) -> None:
    """Write both files into `directory`."""
    write_atomic(directory / REFERENCE_NAME, reference())
    write_atomic(directory / SCHEMA_NAME, json.dumps(schema(), indent=2) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))

"""The committed reference and schema agree with the models."""

import json
from pathlib import Path

from enginery.cli.spec_reference import REFERENCE_NAME, SCHEMA_NAME, reference, schema

DOCS = Path(__file__).parents[2] / "docs"


def test_the_reference_is_fresh() -> None:
    assert (DOCS / REFERENCE_NAME).read_text(encoding="utf-8") == reference(), "run `make docs`"


def test_the_schema_is_fresh() -> None:
    assert json.loads((DOCS / SCHEMA_NAME).read_text(encoding="utf-8")) == schema(), "run `make docs`"


def test_every_field_has_a_name_and_a_meaning_in_a_form() -> None:
    parts = [schema(), *schema()["$defs"].values()]
    for part in parts:
        for name, field in part.get("properties", {}).items():
            assert field.get("description"), name
            assert field.get("title", "").casefold() == name.replace("_", " "), name

"""The files of facts: one JSON file for each topic, read once in each process."""

import json
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def topic(name: str) -> Any:
    """The content of a topic's file."""
    return json.loads((files(__name__) / f"{name}.json").read_bytes())

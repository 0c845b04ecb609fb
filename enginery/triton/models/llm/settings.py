"""What `model.yaml` says: the arguments of the LLM API, and under `triton_config` what this model itself reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

MODEL_FILE = "model.yaml"
PATH_VARIABLE = "LLM_CONFIG_PATH"
"""Names another file, absolute or beside `model.py`, as with NVIDIA's model."""
OWN_SECTION = "triton_config"
DEFAULT_CLASS = "tensorrt_llm:LLM"


@dataclass(frozen=True)
class Settings:
    """How the model is run.

    Attributes:
        arguments: of the LLM API; `model` is a path where the checkpoint lies beside the file.
        llm_class: the class that takes them, as module:class.
        warm_up: batch sizes to try before the first request.
        exclude_input: whether answers come without the prompt unless a request says otherwise.
    """

    arguments: Mapping[str, Any]
    llm_class: str
    warm_up: tuple[int, ...]
    exclude_input: bool


def read_settings(directory: Path, environment: Mapping[str, str]) -> Settings:
    """Read the file of a version directory, or the one that the environment names.

    Raises:
        TypeError: when it is no mapping, or names no model.
    """
    path = directory / environment.get(PATH_VARIABLE, MODEL_FILE)
    content = import_module("yaml").safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get(OWN_SECTION) or {}, dict):
        raise TypeError(f"{path}: must be a mapping with the arguments of the LLM API and {OWN_SECTION}")
    if not content.get("model"):
        raise TypeError(f"{path}: does not name the model, by its name or its directory beside the file")
    own = content.pop(OWN_SECTION, None) or {}
    return Settings(
        arguments={**content, "model": _place(str(content["model"]), (path.parent, directory))},
        llm_class=str(own.get("llm_class", DEFAULT_CLASS)),
        warm_up=tuple(int(size) for size in own.get("warm_up") or ()),
        exclude_input=bool(own.get("exclude_input_from_output", True)),
    )


def _place(model: str, directories: tuple[Path, ...]) -> str:
    """A relative path is one beside the file; what is not there is left as it is, for it may be a name on the Hub."""
    there = [directory / model for directory in directories if (directory / model).is_dir()]
    return str(there[0]) if there else model

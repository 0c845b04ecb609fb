"""Triton's model configurations (`config.pbtxt`): reads and changes the version, build and paths in them.

A packaged configuration names its model's files by absolute paths into version directory 1. It is rewritten when the
model repository lies at another path, or when the model is served under another version number.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from enginery.core.late import late

if TYPE_CHECKING:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2
    from tritonclient.grpc.model_config_pb2 import ModelConfig
else:
    model_config_pb2 = late("tritonclient.grpc.model_config_pb2")
    text_format = late("google.protobuf.text_format")


PACKAGED_VERSION = "1"
"""The version directory of a published model. A rollout gives it another number."""
CONFIG = "config.pbtxt"
BUILD_LABEL = "enginery_build"
"""The parameter of a served configuration that names its build."""
LAUNCH_NOTE = "launch.md"
"""A file beside the models that tells people how to start a server for the build."""
ENGINE_BACKEND = "tensorrtllm"
"""The backend whose configuration names the path of the engine."""
PATH_PARAMETERS = frozenset({"gpt_model_path", "encoder_model_path", "tokenizer_dir"})
"""Parameters whose value is the path of a model's files."""
PACKAGED_PATH = re.compile(
    rf"(?P<mount>(?:/.*)?)(?P<model>/(?:tensorrt_llm|preprocessing|postprocessing))/{PACKAGED_VERSION}(?P<inside>/.*)?"
)
"""An absolute path into a packaged model's version directory."""


def serve_as(config_text: str, version: int, build_id: str) -> str:
    """Change a configuration so that it serves only `version`, names its build, and has the paths of that version."""
    config = _parse(config_text)
    config.version_policy.specific.versions[:] = [version]
    config.parameters[BUILD_LABEL].string_value = build_id
    _move_paths(config, lambda path: moved(path, version))
    return str(text_format.MessageToString(config))


def mounted_at(config_text: str, mount: str) -> str:
    """Change a configuration for a server that sees the model repository at `mount`.

    A configuration without paths is returned without any change.

    Raises:
        ValueError: when the text is not a valid configuration.
    """
    if not any(name in config_text for name in PATH_PARAMETERS):
        return config_text  # without importing Triton's messages, which takes seconds
    try:
        config = _parse(config_text)
    except text_format.ParseError as error:
        raise ValueError(str(error)) from error
    changed = _move_paths(config, lambda path: moved(path, mount=mount))
    return str(text_format.MessageToString(config)) if changed else config_text


def moved(path: str, version: int | str = PACKAGED_VERSION, mount: str | None = None) -> str:
    """The path of the same file when its model is served as `version` from `mount`; other paths are not changed."""
    found = PACKAGED_PATH.fullmatch(path)
    if found is None:
        return path
    return f"{found['mount'] if mount is None else mount}{found['model']}/{version}{found['inside'] or ''}"


def backend_of(config_text: str) -> str:
    """The backend that serves a model; empty for an ensemble."""
    return str(_parse(config_text).backend)


def served_version(config_text: str) -> tuple[int | None, str | None]:
    """The version that a configuration serves, and the id of the build that it names; None for each that is missing."""
    config = _parse(config_text)
    versions = config.version_policy.specific.versions
    label = config.parameters[BUILD_LABEL].string_value if BUILD_LABEL in config.parameters else None
    return (max(versions) if versions else None), label


def _parse(config_text: str) -> "ModelConfig":
    return text_format.Parse(config_text, model_config_pb2.ModelConfig())


def _move_paths(config: "ModelConfig", move: Callable[[str], str]) -> bool:
    """Change each path parameter with `move`; returns True when a path has changed."""
    changed = False
    for name in PATH_PARAMETERS & set(config.parameters):
        parameter = config.parameters[name]
        place = move(parameter.string_value)
        changed = changed or place != parameter.string_value
        parameter.string_value = place
    return changed

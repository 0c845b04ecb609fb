"""Triton's model configurations (`config.pbtxt`): the version, build and paths that they name, read and changed.

A configuration that Enginery packages names its files by absolute paths into version directory 1. It is rewritten when
the model repository lies at another path, or when the model is served under another version number.
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
"""The version directory of a published model; a server gets it under another number."""
CONFIG = "config.pbtxt"
BUILD_LABEL = "enginery_build"
"""The parameter of a served configuration that names its build."""
LAUNCH_NOTE = "launch.md"
"""A file that tells people how to start a server for the build; it lies beside the models and is not served."""
ENGINE_BACKEND = "tensorrtllm"
"""The backend whose configuration names the path of the engine."""
PATH_PARAMETERS = frozenset({"gpt_model_path", "encoder_model_path", "tokenizer_dir"})
"""Parameters that hold a path of a model's files."""
PACKAGED_PATH = re.compile(
    rf"(?P<mount>(?:/.*)?)(?P<model>/(?:tensorrt_llm|preprocessing|postprocessing))/{PACKAGED_VERSION}(?P<inside>/.*)?"
)
"""An absolute path into a packaged model's version directory."""


def serve_as(config_text: str, version: int, build_id: str) -> str:
    """The configuration changed to serve only `version`, to name its build, and to find that version's files."""
    config = _parse(config_text)
    config.version_policy.specific.versions[:] = [version]
    config.parameters[BUILD_LABEL].string_value = build_id
    _move_paths(config, lambda path: moved(path, version))
    return str(text_format.MessageToString(config))


def mounted_at(config_text: str, mount: str) -> str:
    """The configuration changed for a server that sees the model repository at `mount`.

    A configuration without paths stays as it is, byte for byte.

    Raises:
        ValueError: when it is not a valid configuration.
    """
    if not any(name in config_text for name in PATH_PARAMETERS):
        return config_text  # saves the seconds that importing Triton's messages takes
    try:
        config = _parse(config_text)
    except text_format.ParseError as error:
        raise ValueError(str(error)) from error
    changed = _move_paths(config, lambda path: moved(path, mount=mount))
    return str(text_format.MessageToString(config)) if changed else config_text


def moved(path: str, version: int | str = PACKAGED_VERSION, mount: str | None = None) -> str:
    """A path into a packaged model, for one served as `version` or from `mount`; other paths stay as they are."""
    found = PACKAGED_PATH.fullmatch(path)
    if found is None:
        return path
    return f"{found['mount'] if mount is None else mount}{found['model']}/{version}{found['inside'] or ''}"


def backend_of(config_text: str) -> str:
    """The backend that serves a model; empty for an ensemble."""
    return str(_parse(config_text).backend)


def served_version(config_text: str) -> tuple[int | None, str | None]:
    """The version that a configuration serves and the build that it names; None for what it does not say."""
    config = _parse(config_text)
    versions = config.version_policy.specific.versions
    label = config.parameters[BUILD_LABEL].string_value if BUILD_LABEL in config.parameters else None
    return (max(versions) if versions else None), label


def _parse(config_text: str) -> "ModelConfig":
    return text_format.Parse(config_text, model_config_pb2.ModelConfig())


def _move_paths(config: "ModelConfig", move: Callable[[str], str]) -> bool:
    """Change each path parameter with `move`; returns whether any has changed."""
    changed = False
    for name in PATH_PARAMETERS & set(config.parameters):
        parameter = config.parameters[name]
        place = move(parameter.string_value)
        changed = changed or place != parameter.string_value
        parameter.string_value = place
    return changed

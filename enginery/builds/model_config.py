"""TODO."""

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
"""The version directory of a published model; it gets another number where it is served."""


CONFIG = "config.pbtxt"
BUILD_LABEL = "enginery_build"
LAUNCH_NOTE = "launch.md"
"""Tells people how to start a server for the build; it lies beside the models and is not served."""
ENGINE_BACKEND = "tensorrtllm"
"""The backend that must be told where the engine is."""
PATH_PARAMETERS = frozenset({"gpt_model_path", "encoder_model_path", "tokenizer_dir"})
PACKAGED_PATH = re.compile(
    rf"(?P<mount>(?:/.*)?)(?P<model>/(?:tensorrt_llm|preprocessing|postprocessing))/{PACKAGED_VERSION}(?P<inside>/.*)?"
)
"""An absolute path into the version directory of a model as it was packaged."""


def serve_as(config_text: str, version: int, build_id: str) -> str:
    """A configuration that serves just `version`, says which build it is, and knows where that version's files are."""
    config = text_format.Parse(config_text, model_config_pb2.ModelConfig())
    config.version_policy.specific.versions[:] = [version]
    config.parameters[BUILD_LABEL].string_value = build_id
    _move_paths(config, lambda path: moved(path, version))
    return str(text_format.MessageToString(config))


def mounted_at(config_text: str, mount: str) -> str:
    """A configuration that knows where its files are once the server sees the model repository at `mount`.

    One that names no place stays as it is, to the byte.

    Raises:
        ValueError: when it is no configuration.
    """
    if not any(name in config_text for name in PATH_PARAMETERS):
        return config_text  # without the seconds that Triton's messages take to import

    try:
        config = text_format.Parse(config_text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ValueError(str(error)) from error
    changed = _move_paths(config, lambda path: remounted(path, mount))
    return str(text_format.MessageToString(config)) if changed else config_text


def _move_paths(config: "ModelConfig", move: Callable[[str], str]) -> bool:
    """Change each parameter that tells a model where its files are; says whether any is another now."""
    changed = False
    for name in PATH_PARAMETERS & set(config.parameters):
        parameter = config.parameters[name]
        place = move(parameter.string_value)
        changed = changed or place != parameter.string_value
        parameter.string_value = place
    return changed


def remounted(path: str, mount: str) -> str:
    """An absolute path into a model's packaged version, as it is once the repository is at `mount`; others stay."""
    found = PACKAGED_PATH.fullmatch(path)
    return f"{mount}{found['model']}/{PACKAGED_VERSION}{found['inside'] or ''}" if found else path


def moved(path: str, version: int) -> str:
    """An absolute path into a model's packaged version, as it is once that is served as `version`; others stay."""
    found = PACKAGED_PATH.fullmatch(path)
    return f"{found['mount']}{found['model']}/{version}{found['inside'] or ''}" if found else path


def backend_of(config_text: str) -> str:
    """The backend that serves a model; empty for an ensemble."""
    return str(text_format.Parse(config_text, model_config_pb2.ModelConfig()).backend)


def served_version(config_text: str) -> tuple[int | None, str | None]:
    """The version a configuration asks for, and the build it names; None for what it does not say."""
    config = text_format.Parse(config_text, model_config_pb2.ModelConfig())
    versions = config.version_policy.specific.versions
    label = config.parameters[BUILD_LABEL].string_value if BUILD_LABEL in config.parameters else None
    return (max(versions) if versions else None), label

"""Writes the `llmapi` repository: a checkpoint, its `model.yaml`, and the Python model that runs it.

Its paths are relative: the checkpoint lies beside `model.yaml`. So it can be moved, copied and loaded from S3.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, JsonValue

from enginery.builds import LAUNCH_NOTE
from enginery.core import files
from enginery.core.digests import file_digest, json_digest
from enginery.core.errors import SourceError
from enginery.core.model import Frozen
from enginery.sources import TOKENIZERS
from enginery.triton.launch import Launch, launch_of_llmapi, note_of_llmapi
from enginery.triton.llmapi.config import ENSEMBLE, MODEL, MODELS, model_config
from enginery.triton.repository import to_text
from enginery.triton.served import archive_of, keep_directory, served_models_dir, write_code

VERSION = "1"
CHECKPOINT = "checkpoint"
MODEL_FILE = "model.yaml"
SUBPACKAGE = "llm"
SHARED = ("__init__", "generation", "requests", "sampling", "text")
"""The modules outside `llm` that it imports, and those that these import."""


def served_llm_sources() -> Iterator[tuple[str, Path]]:
    """The sources of the served model, each with its path in the archive."""
    directory = served_models_dir()
    for name in SHARED:
        yield f"{name}.py", directory / f"{name}.py"
    for path in sorted((directory / SUBPACKAGE).glob("*.py")):
        yield f"{SUBPACKAGE}/{path.name}", path


@cache
def served_llm_digest() -> str:
    """One SHA-256 of all sources: a changed model makes another model repository."""
    return json_digest({name: file_digest(path) for name, path in served_llm_sources()})


def served_llm_archive() -> bytes:
    """The archive of the served model."""
    return archive_of(served_llm_sources())


class Served(Frozen):
    """The serving options of the spec.

    Attributes:
        decoupled: whether answers may be streamed.
        exclude_input_in_output: whether answers omit the prompt unless a request says otherwise.
    """

    decoupled: bool = False
    exclude_input_in_output: bool = True


class LlmApiOptions(Frozen):
    """How a checkpoint is to be served.

    Attributes:
        release: of TensorRT-LLM.
        model: the model's name, for the launch note.
        arguments: of the LLM API, except `model`.
        llm_class: the class that takes them, as module:class.
        serving: what the spec says.
        warm_up: batch sizes to try when the model is loaded.
        world_size: the number of GPUs.
        labels: written into both models' configurations as parameters.
    """

    release: str
    model: str = "the model"
    arguments: Mapping[str, JsonValue] = Field(default_factory=dict)
    llm_class: str = "tensorrt_llm:LLM"
    serving: Served = Served()
    warm_up: tuple[int, ...] = ()
    world_size: int = 1
    labels: Mapping[str, str] = Field(default_factory=dict)


def write_llmapi_repository(destination: Path, *, checkpoint: Path, weights: Path, options: LlmApiOptions) -> Launch:
    """Write a model repository into `destination`; large files are linked where possible.

    Args:
        destination: an empty or missing directory.
        checkpoint: a Hugging Face checkpoint.
        weights: the model it was made from, for a tokenizer that the checkpoint lacks.
        options: the release, and how it is to be served.

    Returns:
        How to start a server for it; the note `launch.md` in `destination` says the same.

    Raises:
        SourceError: when there is no tokenizer.
        StoreError: when something cannot be written.
    """
    content = _content(checkpoint, weights)
    for name in MODELS:
        config = model_config(name, decoupled=options.serving.decoupled, labels=options.labels)
        files.write_atomic(destination / name / "config.pbtxt", to_text(config))
    directory = destination / MODEL / VERSION
    write_code(directory, f"{SUBPACKAGE}.{MODEL}", served_llm_archive())
    files.write_atomic(directory / MODEL_FILE, model_yaml(options))
    for path, source in content.items():
        files.link_or_copy(source, directory / CHECKPOINT / path)
    keep_directory(destination / ENSEMBLE / VERSION)
    launch = launch_of_llmapi(options.release, options.world_size)
    autotunes = options.arguments.get("enable_autotuner") is not False
    note = note_of_llmapi(launch, options.release, options.model, autotunes=autotunes)
    files.write_atomic(destination / LAUNCH_NOTE, note)
    return launch


def model_yaml(options: LlmApiOptions) -> str:
    """The content of `model.yaml`, as NVIDIA's model reads it too; the same options give the same text."""
    own: dict[str, Any] = {
        "decoupled": options.serving.decoupled,
        "max_batch_size": 0,
        "llm_class": options.llm_class,
        "exclude_input_from_output": options.serving.exclude_input_in_output,
        "warm_up": list(options.warm_up),
    }
    content = {**options.arguments, "model": CHECKPOINT, "triton_config": own}
    return str(yaml.safe_dump(content, sort_keys=True, default_flow_style=False, allow_unicode=True))


def _content(checkpoint: Path, weights: Path) -> dict[Path, Path]:
    """The files of the checkpoint by their paths, with the tokenizer of the weights if it has none itself."""
    found = {Path(path): checkpoint / path for path in files.list_files(checkpoint)}
    if not any(Path(name) in found for name in TOKENIZERS):
        found |= {Path(name): weights / name for name in TOKENIZERS if (weights / name).is_file()}
    if not any(Path(name) in found for name in TOKENIZERS):
        raise SourceError(
            f"the model has no tokenizer ({', '.join(TOKENIZERS)})",
            subject=str(weights),
            remedy="save its tokenizer beside the weights: AutoTokenizer.from_pretrained(...).save_pretrained(...)",
        )
    return found

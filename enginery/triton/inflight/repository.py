"""Writes the model repository of an engine of TensorRT-LLM: the five models of its release's templates, filled.

`tensorrt_llm` is served by the release's own C++ backend, which needs the absolute path of the engine. The others are
served by our Python models. Their tokenizer lies beside them, so they work at any path.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from enginery.builds import LAUNCH_NOTE
from enginery.core import files
from enginery.core.errors import StoreError, UsageError
from enginery.core.model import Frozen
from enginery.releases import MODELS
from enginery.sources import CONFIGS, TOKENIZER_PARTS, TOKENIZERS
from enginery.spec import ServingOptions
from enginery.triton.inflight.config import (
    DEFAULTS,
    ENSEMBLE,
    model_config,
    values,
    wiring,
)
from enginery.triton.launch import Launch, launch_of_engine, note_of_engine
from enginery.triton.models.wiring import WIRING_FILE
from enginery.triton.repository import find_tokenizer, to_text
from enginery.triton.served import keep_directory, served_archive, write_code

ENGINE_CONFIG = "config.json"
ENGINE_REMEDY = "build it again; `enginery run-step` on the build step shows what happened"
ENGINE_MODEL = "tensorrt_llm"
TOKENIZER_DIRECTORY = "tokenizer"
WITH_TOKENIZER = ("preprocessing", "postprocessing")
TOKENIZER_FILES = frozenset({*TOKENIZERS, *TOKENIZER_PARTS, *CONFIGS[:2]})
"""The files that a tokenizer may consist of, and the two that name its end token and vocabulary."""
VERSION = 1


@dataclass(frozen=True)
class EngineFacts:
    """The properties of an engine that matter for serving it.

    Attributes:
        world_size: the number of its ranks; each has a file.
        max_batch_size: the maximum number of requests in a batch; None if unknown.
        max_beam_width: the maximum number of beams of a request; None if unknown.
    """

    world_size: int
    max_batch_size: int | None = None
    max_beam_width: int | None = None


def read_engine(directory: Path) -> EngineFacts:
    """Read the configuration of an engine, and make sure that the file of every rank exists.

    Raises:
        StoreError: when it is not an engine of `trtllm-build`, or incomplete.
    """
    content = _read(directory)
    mapping = _part(_part(content, "pretrained_config"), "mapping")
    built = _part(content, "build_config")
    world_size = int(mapping.get("world_size") or 1)
    missing = [f"rank{rank}.engine" for rank in range(world_size) if not (directory / f"rank{rank}.engine").is_file()]
    if missing:
        problem = f"the engine says that it has {world_size} ranks, but {', '.join(missing)} is not there"
        raise StoreError(problem, subject=str(directory), remedy=ENGINE_REMEDY)
    return EngineFacts(world_size, built.get("max_batch_size"), built.get("max_beam_width"))


def _read(directory: Path) -> Mapping[str, Any]:
    try:
        content = json.loads((directory / ENGINE_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problem = f"is not an engine of trtllm-build: {ENGINE_CONFIG}: {error}"
        raise StoreError(problem, subject=str(directory), remedy=ENGINE_REMEDY) from error
    if not isinstance(content, dict) or "pretrained_config" not in content:
        problem = f"is not an engine of trtllm-build: {ENGINE_CONFIG} has no pretrained_config"
        raise StoreError(problem, subject=str(directory), remedy=ENGINE_REMEDY)
    return content


def _part(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = content.get(name)
    return found if isinstance(found, dict) else {}


class InflightOptions(Frozen):
    """How the engine is to be served.

    Attributes:
        release: of TensorRT-LLM; its templates are filled.
        model: the model's name, for the launch note.
        serving: what the spec says.
        world_size: the number of ranks that the engine must have; None accepts any.
    """

    release: str
    model: str = "the model"
    serving: ServingOptions = Field(default_factory=ServingOptions)
    world_size: int | None = None


def write_inflight_repository(destination: Path, *, engine: Path, weights: Path, options: InflightOptions) -> Launch:
    """Write the model repository of a TensorRT-LLM engine into `destination`; large files are linked where possible.

    Args:
        destination: an empty or missing directory.
        engine: an engine directory of `trtllm-build`.
        weights: the model it was made from, for its tokenizer.
        options: the release, and how it is to be served.

    Returns:
        How to start a server for it; the note `launch.md` in `destination` says the same.

    Raises:
        StoreError: when the engine is incomplete, or something cannot be written.
        UsageError: when the engine does not match the spec, or the release has no templates.
        SourceError: when the model has no tokenizer in the `tokenizer.json` format.
    """
    facts = read_engine(engine)
    _require_fit(facts, options)
    tokenizer = _tokenizer_files(weights)
    archive = served_archive()
    for name in MODELS:
        _write_config(destination, name, options)
        directory = destination / name / str(VERSION)
        if name == ENSEMBLE:
            keep_directory(directory)
        elif name == ENGINE_MODEL:
            _link_all({engine / path: directory / path for path in files.list_files(engine)})
        else:
            write_code(directory, name, archive)
        if name in WITH_TOKENIZER:
            _link_all({path: directory / TOKENIZER_DIRECTORY / path.name for path in tokenizer})
    wired = json.dumps(wiring(options.release), indent=1)
    files.write_atomic(destination / "tensorrt_llm_bls" / str(VERSION) / WIRING_FILE, wired)
    launch = launch_of_engine(options.release, facts.world_size, options.serving.mount)
    files.write_atomic(destination / LAUNCH_NOTE, note_of_engine(launch, options.release, options.model))
    return launch


def _write_config(destination: Path, name: str, options: InflightOptions) -> None:
    filled = values(options.release, options.serving, paths(options.serving.mount, name))
    config = model_config(name, options.release, filled, options.serving)
    files.write_atomic(destination / name / "config.pbtxt", to_text(config))


def paths(mount: str, model: str, version: int = VERSION) -> Mapping[str, str]:
    """The paths of the engine and of a model's tokenizer, as the server sees them."""
    owner = model if model in WITH_TOKENIZER else WITH_TOKENIZER[0]
    return {
        "engine_dir": f"{mount}/{ENGINE_MODEL}/{version}",
        "tokenizer_dir": f"{mount}/{owner}/{version}/{TOKENIZER_DIRECTORY}",
    }


def _link_all(places: Mapping[Path, Path]) -> None:
    for source, target in places.items():
        files.link_or_copy(source, target)


def _require_fit(engine: EngineFacts, options: InflightOptions) -> None:
    wanted = options.world_size
    if wanted is not None and engine.world_size != wanted:
        raise UsageError(
            f"the engine has {engine.world_size} ranks, but the target asks for {wanted}",
            subject="engine",
            remedy="build it again: tensor_parallel and pipeline_parallel decide its ranks",
        )
    beams = options.serving.max_beam_width or DEFAULTS["max_beam_width"]
    if engine.max_beam_width is not None and beams > engine.max_beam_width:
        raise UsageError(
            f"max_beam_width is {beams}, but the engine was built for {engine.max_beam_width}",
            subject="serving.max_beam_width",
            remedy=f"set it to {engine.max_beam_width}, or build.max_beam_width to {beams}",
        )


def _tokenizer_files(weights: Path) -> list[Path]:
    find_tokenizer(weights)
    return sorted(path for path in weights.iterdir() if path.name in TOKENIZER_FILES)

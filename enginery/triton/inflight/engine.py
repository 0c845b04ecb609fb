"""What an engine directory of TensorRT-LLM says of itself, and whether it is whole."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginery.errors import StoreError

CONFIG = "config.json"
REMEDY = "build it again; `enginery run-step` on the build step shows what happened"


@dataclass(frozen=True)
class EngineFacts:
    """What serving needs to know of an engine.

    Attributes:
        world_size: how many ranks it has, each with a file of its own.
        max_batch_size: most requests in one batch; None where it does not say.
        max_beam_width: most beams a request may have; None where it does not say.
    """

    world_size: int
    max_batch_size: int | None = None
    max_beam_width: int | None = None


def read_engine(directory: Path) -> EngineFacts:
    """Read an engine's own configuration, and make sure that every rank is there.

    Raises:
        StoreError: when it is no engine of `trtllm-build`, or not whole.
    """
    content = _read(directory)
    mapping = _part(_part(content, "pretrained_config"), "mapping")
    built = _part(content, "build_config")
    world_size = int(mapping.get("world_size") or 1)
    missing = [f"rank{rank}.engine" for rank in range(world_size) if not (directory / f"rank{rank}.engine").is_file()]
    if missing:
        problem = f"the engine says that it has {world_size} ranks, but {', '.join(missing)} is not there"
        raise StoreError(problem, subject=str(directory), remedy=REMEDY)
    return EngineFacts(world_size, built.get("max_batch_size"), built.get("max_beam_width"))


def _read(directory: Path) -> Mapping[str, Any]:
    try:
        content = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problem = f"is not an engine of trtllm-build: {CONFIG}: {error}"
        raise StoreError(problem, subject=str(directory), remedy=REMEDY) from error
    if not isinstance(content, dict) or "pretrained_config" not in content:
        problem = f"is not an engine of trtllm-build: {CONFIG} has no pretrained_config"
        raise StoreError(problem, subject=str(directory), remedy=REMEDY)
    return content


def _part(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = content.get(name)
    return found if isinstance(found, dict) else {}

"""Quantizing for both backends of TensorRT-LLM: NVIDIA ModelOpt, and the data set to calibrate with.

ModelOpt has its own toolchain, in which Enginery's driver runs. A data set is a name that a converter knows, or a path
to the user's own texts. A step's key contains a digest of these texts, but not their path.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import JsonValue

from enginery import toolchains
from enginery.core.digests import json_digest, remembered_digest
from enginery.core.errors import SourceError, ToolchainError
from enginery.models import ModelFacts
from enginery.spec import Calibration, Precision
from enginery.toolchains import DRIVERS

DRIVER = DRIVERS / "convert_modelopt.py"
MODELOPT = "modelopt"

BLOCKS = {Precision.INT4_AWQ: 128, Precision.W4A8_AWQ: 128, Precision.NVFP4: 16}
"""The block size: how many weights in a row share one scale. Each GPU's part of a row must be a multiple of it."""

PLACEHOLDER = "{dataset}"
SUFFIXES = (".jsonl", ".json", ".txt", ".csv", ".parquet")


def modelopt_toolchain() -> str:
    """The newest toolchain with ModelOpt.

    Raises:
        ToolchainError: when there is none.
    """
    found = toolchains.newest(MODELOPT)
    if found is None:
        remedy = "pin one (see infra/toolchains/README.md)"
        raise ToolchainError("there is no toolchain with ModelOpt", subject=MODELOPT, remedy=remedy)
    return found


def calibration_arguments(options: Calibration) -> Iterator[str]:
    """The driver's arguments for a calibration. If the spec leaves an option out, the driver uses its default."""
    flags = {
        "--calib_dataset": PLACEHOLDER if options.dataset else None,
        "--calib_size": options.size,
        "--calib_max_length": options.max_length,
        "--calib_batch_size": options.batch_size,
        "--seed": options.seed,
    }
    for flag, value in flags.items():
        if value is not None:
            yield from (flag, str(value))


def driver_facts(last_lines: Sequence[str]) -> dict[str, JsonValue]:
    """The JSON object in the driver's last line, which describes its work; empty if there is none."""
    try:
        found = json.loads(last_lines[-1]) if last_lines else {}
    except ValueError:  # a library may print a warning at the very end
        return {}
    return found if isinstance(found, dict) else {}


def uneven_sizes(model: ModelFacts, precision: Precision, gpus: int) -> Iterator[tuple[str, int, int]]:
    """The model's sizes that cannot be split into whole blocks on each GPU, as (name, size, block size)."""
    block = BLOCKS.get(precision, 1)
    rows = {
        "hidden": model.hidden_size,
        "attention": model.heads * model.head_size,
        "intermediate": model.moe_intermediate_size if model.experts else model.intermediate_size,
    }
    for name, size in rows.items():
        if size % (block * gpus):
            yield name, size, block


def is_path(dataset: str) -> bool:
    """Whether the data set is a path and not a name. Paths that exist are absolute: the reader of specs does that."""
    return Path(dataset).is_absolute() or dataset.startswith((".", "~")) or dataset.endswith(SUFFIXES)


def own_texts(options: Calibration) -> Path | None:
    """The path of the user's own texts to calibrate with; None for built-in texts and for data sets with a name."""
    return Path(options.dataset).expanduser() if options.dataset and is_path(options.dataset) else None


def dataset_digest(dataset: Path) -> str:
    """SHA-256 of a file, or of the names and digests of all files in a directory.

    Raises:
        OSError: when a file cannot be read.
    """
    if not dataset.is_dir():
        return remembered_digest(dataset)
    found = sorted(path for path in dataset.rglob("*") if path.is_file())
    return json_digest({str(path.relative_to(dataset)): remembered_digest(path) for path in found})


def require_same_texts(dataset: Path, expected: str) -> None:
    """Make sure that the texts are still those of the plan: the step's key contains their digest.

    Raises:
        SourceError: when they cannot be read, or their digest is another one.
    """
    try:
        found = dataset_digest(dataset)
    except OSError as error:
        remedy = "put the data set on this machine, at the path that the spec names"
        raise SourceError(f"cannot be read to calibrate with: {error}", subject=str(dataset), remedy=remedy) from error
    if found != expected:
        problem = "these are not the texts that the plan was made for"
        raise SourceError(problem, subject=str(dataset), remedy="plan again, or put the same texts there")

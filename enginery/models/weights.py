"""Everything that is checked in the weight files of a model, as one list of faults."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from enginery.models.facts import ModelFacts
from enginery.models.headers import Tensor, read_tensors
from enginery.models.quantized import (
    BESIDE,
    METHOD,
    MODELOPT_FILE,
    MUST_BE_PACKED,
    SAID_IN,
    Packed,
    packed_format,
    with_quantization,
)
from enginery.models.size import weights_of
from enginery.models.tensors import PLAIN_MODEL, WeightsFault, architecture_faults, index_faults

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
UNDAMAGED = "copy or download it again; if the source itself holds a damaged file, correct it there"
PLACEHOLDER = 0.01
"""Files with less than this part of a model's weights only stand in for it."""


@dataclass(frozen=True)
class WeightFiles:
    """The headers of a model's weight files.

    Attributes:
        files: file -> its tensors.
        damaged: file -> what is wrong with it.
        index: tensor -> the file that has it, as the index of the files says; None without an index.
    """

    files: Mapping[str, Mapping[str, Tensor]]
    damaged: Mapping[str, str]
    index: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, directory: Path, names: Collection[str]) -> "WeightFiles":
        """Read the headers of those of the files that are safetensors files. No weights are read."""
        read = {name: read_tensors(directory / name) for name in sorted(names) if name.endswith(".safetensors")}
        files = {name: found for name, found in read.items() if not isinstance(found, str)}
        damaged = {name: found for name, found in read.items() if isinstance(found, str)}
        indexed = INDEX in names and SINGLE not in names
        weight_map = _object_in(directory / INDEX).get("weight_map") if indexed else None
        return cls(files, damaged, weight_map if isinstance(weight_map, Mapping) else None)

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """All tensors by name."""
        return {name: tensor for tensors in self.files.values() for name, tensor in tensors.items()}

    @cached_property
    def packed(self) -> Packed | None:
        """The format of quantized weights that the tensors show; None for plain weights."""
        return packed_format(self.tensors)

    def settled(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The configuration, without a quantization that only a file beside it claims and the tensors do not have."""
        said_in = str(_quantization(config).get(SAID_IN))
        stale = said_in in BESIDE and self.tensors and not self.damaged and self.packed is None
        return {key: value for key, value in config.items() if key != "quantization_config"} if stale else config

    def only_stand_in(self, config: Mapping[str, Any]) -> bool:
        """Whether the files have almost nothing of the model: somebody plans before the weights are there."""
        held = sum(prod(tensor.shape) for tensor in self.tensors.values())
        return 0 < held < PLACEHOLDER * weights_of(ModelFacts.from_config(config)).total

    def damage(self) -> Iterator[WeightsFault]:
        """A fault for each file whose header cannot be read, or does not describe the file."""
        yield from (WeightsFault(f"{name} is damaged: {problem}", UNDAMAGED) for name, problem in self.damaged.items())

    def faults(self, config: Mapping[str, Any]) -> Iterator[WeightsFault]:
        """Everything that is wrong. Of damaged files nothing else is said.

        Args:
            config: the content of `config.json`, with the quantization wherever it is said (`with_quantization`).
        """
        yield from self.damage()
        if self.files and not self.tensors:
            yield WeightsFault("the weight files hold no tensors")
        if self.damaged or not self.tensors:
            return
        quantization = _quantization(config)
        method = str(quantization.get(METHOD))
        if self.packed and not quantization:
            problem = (
                f"the weights are quantized ({self.packed.name}, as {self.packed.example} shows), but {CONFIG} does"
            )
            yield WeightsFault(f"{problem} not say so: they would be taken for plain weights", PLAIN_MODEL)
            return
        if method in MUST_BE_PACKED and not self.packed and SAID_IN not in quantization:
            problem = f"{CONFIG} says that the weights are quantized ({method}), but all tensors hold plain floats"
            yield WeightsFault(problem, f"remove quantization_config from {CONFIG}, or use the weights that it is for")
            return
        if self.index is not None:
            yield from index_faults(INDEX, self.index, self.files)
        lost = {name for name in self.index or () if name not in self.tensors}  # reported already
        yield from architecture_faults(config, self.tensors, quantized=bool(quantization), reported=lost)


def whole_weights_faults(directory: Path) -> list[WeightsFault]:
    """What is wrong with the weights of a model in a directory. It must have only the files that a build needs."""
    names = [path.name for path in directory.iterdir() if path.is_file()]
    beside = {name: _object_in(directory / name) for name in (*BESIDE, MODELOPT_FILE) if name in names}
    weights = WeightFiles.read(directory, names)
    config = with_quantization(_object_in(directory / CONFIG), beside)
    return list(weights.faults(weights.settled(config)))


def _object_in(path: Path) -> Mapping[str, Any]:
    """The JSON object in a file; empty if there is none that can be read. Other checks report that."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _quantization(config: Mapping[str, Any]) -> Mapping[str, Any]:
    found = config.get("quantization_config")
    return found if isinstance(found, Mapping) else {}

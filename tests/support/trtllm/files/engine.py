"""The stand-in's engine files: they are small, and name the weights, the release and the GPU they were built from."""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.support.trtllm import facts, home
from tests.support.trtllm.home import Home

MAGIC = b"engine of a stand-in, not of TensorRT-LLM\n"


@dataclass(frozen=True)
class RankEngine:
    """One rank's engine. `checkpoint` is the SHA-256 of the rank's weights."""

    rank: int
    checkpoint: str
    release: str
    tensorrt: str
    compute_cap: str

    def write(self, path: Path) -> None:
        path.write_bytes(MAGIC + json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, path: Path) -> "RankEngine":
        """Read an engine file."""
        content = path.read_bytes()
        if not content.startswith(MAGIC):
            home.log(
                "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (magicTag check failed. )", "E", "TRT"
            )
            raise RuntimeError("Engine deserialization failed: Failed to deserialize cuda engine")
        return cls(**json.loads(content[len(MAGIC) :]))


@dataclass(frozen=True)
class EngineDirectory:
    """A directory with `config.json` and one engine for each rank."""

    path: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        return found

    @property
    def mapping(self) -> dict[str, int]:
        found: dict[str, int] = self.config["pretrained_config"]["mapping"]
        return found

    @property
    def limits(self) -> dict[str, Any]:
        found: dict[str, Any] = self.config["build_config"]
        return found

    @property
    def max_seq_len(self) -> int:
        """The longest sequence, prompt and answer together."""
        if "max_output_len" in self.limits:
            return int(self.limits["max_input_len"]) + int(self.limits["max_output_len"])
        return int(self.limits["max_seq_len"])

    def load(self, own: Home, rank: int) -> RankEngine:
        """Load a rank's engine as the runtime would on this machine."""
        found = RankEngine.read(self.path / f"rank{rank}.engine")
        if found.tensorrt != own.tensorrt:
            text = f"expecting library version {own.tensorrt} got {found.tensorrt}, please rebuild."
            home.log(f"The engine plan file is not compatible with this version of TensorRT, {text}", "E", "TRT")
            raise RuntimeError("Engine deserialization failed: Failed to deserialize cuda engine")
        gpus = own.visible_gpus()
        if rank >= len(gpus):
            raise RuntimeError("CUDA error: invalid device ordinal" if gpus else "No CUDA GPUs are available")
        here = gpus[rank]["compute_cap"]
        if found.compute_cap != here:
            text = f"expecting compute {here} got compute {found.compute_cap}, please rebuild."
            home.log(f"The engine plan file is generated on an incompatible device, {text}", "E", "TRT")
            raise RuntimeError("Engine deserialization failed: Failed to deserialize cuda engine")
        return found


def check_world(release: str, mapping: dict[str, int], world_size: int, *, in_cpp: bool) -> None:
    """Check that there are as many MPI ranks as the engine was built for."""
    if mapping["world_size"] == world_size:
        return
    tp, pp = mapping["tp_size"], mapping["pp_size"]
    if not in_cpp:
        raise AssertionError(f"Engine world size ({tp} * {pp}) != Runtime world size ({world_size})")
    text = f"MPI size {world_size} != TP size {tp} * PP size {pp}"
    if facts.at_least(release, "0.12.0"):
        text += f" * CP Size {mapping.get('cp_size', 1)}"
    if not facts.at_least(release, "0.11.0"):
        text = "mpiSize == tp * pp"
    raise RuntimeError(f"[TensorRT-LLM][ERROR] Assertion failed: {text}")

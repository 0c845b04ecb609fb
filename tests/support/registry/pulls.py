"""Builds to pull: with an engine file of a chosen size, and with configurations that contain absolute paths."""

from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from enginery.registry import Registry
from tests.support.registry.builds import Build

ENGINE = "model_repository/tensorrt_llm/1/rank0.engine"
PATHS = """
parameters {{ key: "gpt_model_path" value {{ string_value: "{mount}/tensorrt_llm/1" }} }}
parameters {{ key: "tokenizer_dir" value {{ string_value: "{mount}/preprocessing/1/tokenizer" }} }}
parameters {{ key: "executor_worker_path" value {{ string_value: "/opt/tritonserver/backends/worker" }} }}
"""


def some_bytes(size: int, seed: int = 0) -> bytes:
    """Bytes that are the same for the same seed."""
    return Random(seed).randbytes(size)


@dataclass
class EngineBuild(Build):
    """A build with an engine file.

    Attributes:
        engine: the bytes of the engine file; without bytes there is no such file.
        mount: the path of the model repository in the configurations; None for configurations without a path.
    """

    engine: bytes = b""
    mount: str | None = None

    def write(self, directory: Path) -> dict[str, Path]:
        inputs = super().write(directory)
        model = inputs["model_repository"] / "tensorrt_llm"
        (inputs["model_repository"] / "ensemble" / "1").mkdir()
        (inputs["model_repository"] / "ensemble" / "1" / ".keep").touch()  # Triton needs it, so a real package has it
        if self.engine:
            (model / "1" / "rank0.engine").write_bytes(self.engine)
        if self.mount:
            with (model / "config.pbtxt").open("a") as config:
                config.write(PATHS.format(mount=self.mount))
        return inputs


@pytest.fixture
def address(bucket: str) -> str:
    return f"s3://{bucket}/prod"


@pytest.fixture
def registry(address: str) -> Registry:
    return Registry(address)


def snapshot(root: Path) -> dict[str, object]:
    """Everything in a directory, without following symlinks, to check that nothing was changed."""
    return {
        path.relative_to(root).as_posix(): path.readlink() if path.is_symlink() else path.is_dir() or path.read_bytes()
        for path in sorted(root.rglob("*"))
    }


def write_file(path: Path, data: bytes) -> None:
    """Replace a pulled file, which is read-only."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)

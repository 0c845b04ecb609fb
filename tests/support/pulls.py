"""Builds to pull: with an engine of a size that matters, and with configurations that name their place."""

from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from enginery.registry import Registry
from tests.support.builds import Build

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
        engine: its bytes; none for no such file.
        mount: where its configuration says that the model repository is; None for one that does not say it.
    """

    engine: bytes = b""
    mount: str | None = None

    def write(self, directory: Path) -> dict[str, Path]:
        inputs = super().write(directory)
        model = inputs["model_repository"] / "tensorrt_llm"
        (inputs["model_repository"] / "ensemble" / "1").mkdir()
        (inputs["model_repository"] / "ensemble" / "1" / ".keep").touch()  # as a real package has it, for Triton
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


def files_under(root: Path) -> dict[str, bytes]:
    """Every file, by its path; a link is read as where it leads."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def snapshot(root: Path) -> dict[str, object]:
    """All that is in a directory, links as links, to see that nothing was touched."""
    return {
        path.relative_to(root).as_posix(): path.readlink() if path.is_symlink() else path.is_dir() or path.read_bytes()
        for path in sorted(root.rglob("*"))
    }


def write_file(path: Path, data: bytes) -> None:
    """Replace a file that was pulled, and so is read-only."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)

"""Engines that several test modules use."""

from pathlib import Path

import pytest
from filelock import FileLock

from enginery.toolchains.identity import Toolchain
from tests.support.engines import onnx
from tests.support.paths import shared_by_workers


@pytest.fixture(scope="session")
def float32_engine(toolchain: Toolchain, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example model as a float32 engine, whose answers equal the reference. It is built once for all workers."""
    engine = shared_by_workers(tmp_path_factory) / "float32-engine"
    with FileLock(f"{engine}.lock"):
        if not (engine / "genai_config.json").exists():
            onnx.build(toolchain, tiny_weights, engine, "float32")
    return engine

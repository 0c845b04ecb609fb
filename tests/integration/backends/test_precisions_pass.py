"""Each precision that runs on a CPU passes the gates of the example model, with default limits."""

from pathlib import Path

from enginery.toolchains.identity import Toolchain
from tests.integration.backends.test_planted_builds import ONLY_WARNS, Builds, a_plan, builds
from tests.support.engines import onnx

__all__ = ["builds"]


def require_passes(builds: Builds, weights: Path, engine: Path, precision: str) -> None:
    """Judge this engine, and check what the gates say."""
    builds.judge(a_plan(weights, **ONLY_WARNS), engine, precision)
    for gate in ("distribution", "answers", "size"):
        assert f"{gate}: pass" in builds.lines, builds.lines


def test_float32_passes(builds: Builds, tiny_weights: Path, float32_engine: Path) -> None:
    require_passes(builds, tiny_weights, float32_engine, "float32")


def test_int8_passes(builds: Builds, toolchain: Toolchain, tiny_weights: Path, tmp_path: Path) -> None:
    engine = onnx.build(toolchain, tiny_weights, tmp_path / "int8", "int8")
    require_passes(builds, tiny_weights, engine, "int8")


def test_int4_that_is_chosen_by_default_passes(builds: Builds, tiny_weights: Path, tiny_engine: Path) -> None:
    require_passes(builds, tiny_weights, tiny_engine, "int4")

"""Tests of the toolchains that come with Enginery, which are made from the user's own package index.

They are made once in the checkout and kept, because other tests and later runs use them too.
"""

from pathlib import Path

import pytest

from enginery import toolchains
from enginery.core import process

pytestmark = pytest.mark.usefixtures("shared_toolchains")


@pytest.mark.parametrize("name", ["onnxruntime-0.18", "triton-2.51"])
def test_a_toolchain_that_comes_along_is_exactly_what_its_pins_say(name: str) -> None:
    toolchains.ensure(name)
    report = toolchains.check(name)
    assert report.mismatches == ()
    assert report.good


def test_the_onnxruntime_toolchain_pins_all_that_is_in_it() -> None:
    """Tomorrow pip could choose another version of a package that is not pinned."""
    found = toolchains.known_facts(toolchains.ensure("onnxruntime-0.18"))
    pinned = {requirement.name for requirement in toolchains.describe("onnxruntime-0.18").requirements()}
    if "+" not in found["torch"]:
        pytest.skip("this index has another variant of PyTorch, with libraries of its own")
    assert set(found) - pinned == {"python"}


def test_the_onnxruntime_toolchain_has_the_model_builder() -> None:
    toolchain = toolchains.ensure("onnxruntime-0.18")
    script = "from onnxruntime_genai.models.builder import create_model; print(create_model.__name__)"
    argv = [str(toolchain.python), "-c", script]
    completed = process.run(argv, env=toolchain.environment, log=lambda _line: None, timeout=120)
    assert completed.last_lines[-1] == "create_model"
    assert toolchains.known_facts(toolchain)["onnxruntime-genai"] == "0.18.0"


def test_the_onnxruntime_toolchain_can_serve_in_tritons_python_backend() -> None:
    """Triton's Python backend is built against numpy 1."""
    assert toolchains.known_facts(toolchains.ensure("onnxruntime-0.18"))["numpy"].split(".")[0] == "1"


def test_the_triton_toolchain_has_the_server_and_nothing_else(shared_toolchains: Path) -> None:
    toolchain = toolchains.ensure("triton-2.51")
    assert list(toolchain.directory.glob("lib/python*/site-packages/pytriton/tritonserver/bin/tritonserver"))
    assert set(toolchains.known_facts(toolchain)) == {"python", "nvidia-pytriton"}

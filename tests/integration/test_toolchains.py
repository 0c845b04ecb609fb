"""The toolchains that come with Enginery, made from the user's own package index and used.

They are made where they are always made (`ENGINERY_HOME`), as other tests use them too, and are found ready there
the next time.
"""

import pytest

from enginery import process, toolchains

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("name", ["onnxruntime-0.18", "triton-2.51"])
def test_a_toolchain_that_comes_along_can_be_made_and_is_what_its_pins_say(name: str) -> None:
    toolchains.ensure(name, print)
    report = toolchains.check(name)
    assert report.mismatches == ()
    assert report.good


def test_the_onnxruntime_toolchain_has_the_model_builder() -> None:
    toolchain = toolchains.ensure("onnxruntime-0.18", print)
    argv = [str(toolchain.python), "-m", "onnxruntime_genai.models.builder", "--help"]
    help_lines: list[str] = []
    process.run(argv, env=toolchain.environment, log=help_lines.append, timeout=120)
    assert any("--precision" in line for line in help_lines)
    assert toolchains.probe(toolchain)["onnxruntime-genai"] == "0.18.0"


def test_the_toolchain_can_serve_in_tritons_python_backend() -> None:
    toolchain = toolchains.ensure("onnxruntime-0.18", print)
    assert toolchains.probe(toolchain)["numpy"].split(".")[0] == "1"


def test_the_triton_toolchain_has_the_server() -> None:
    toolchain = toolchains.ensure("triton-2.51", print)
    assert list(toolchain.directory.glob("lib/python*/site-packages/pytriton/tritonserver/bin/tritonserver"))
    assert "numpy" not in toolchains.probe(toolchain)

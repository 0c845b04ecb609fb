"""Tests of starting and stopping a real Triton."""

from pathlib import Path
from typing import Any

import psutil
import pytest

from enginery.core.errors import UsageError
from enginery.dev.ready import answers, free_port
from enginery.dev.triton import start_triton

ECHO = """
import triton_python_backend_utils as triton


class TritonPythonModel:
    def execute(self, requests):
        inputs = [triton.get_input_tensor_by_name(request, "IN").as_numpy() for request in requests]
        return [triton.InferenceResponse([triton.Tensor("OUT", value)]) for value in inputs]
"""
CONFIG = """
backend: "python"
input { name: "IN" data_type: TYPE_STRING dims: [1] }
output { name: "OUT" data_type: TYPE_STRING dims: [1] }
instance_group { count: 1 kind: KIND_CPU }
"""


@pytest.fixture
def parts(tmp_path: Path, triton_site: Path, onnxruntime_python: Path) -> dict[str, Any]:
    log_file = tmp_path / "triton.log"
    return {"triton_site": triton_site, "serving_python": onnxruntime_python, "log_file": log_file}


def add_model(repository: Path, name: str, code: str) -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "1" / "model.py").write_text(code)
    (repository / name / "config.pbtxt").write_text(CONFIG)


def ready(url: str, model: str) -> bool:
    return answers(url, f"/v2/models/{model}/ready")


def test_a_server_has_its_port_and_its_models_although_one_is_broken_and_leaves_no_process(
    tmp_path: Path, parts: dict[str, Any]
) -> None:
    add_model(tmp_path / "models", "echo", ECHO)
    add_model(tmp_path / "models", "broken", "import there_is_no_such_module\n")
    port = free_port()
    server = start_triton(str(tmp_path / "models"), load_all=True, http_port=port, **parts)
    try:
        assert server.url.endswith(f":{port}")
        assert ready(server.url, "echo")
        assert not ready(server.url, "broken")
        other = {**parts, "log_file": tmp_path / "other.log"}
        with pytest.raises(UsageError, match=f"port {port} is taken"):
            start_triton(str(tmp_path / "models"), http_port=port, **other)
        assert server.service.alive()
        family = psutil.Process(server.service.pid).children(recursive=True)
        assert any("stub" in process.name() or "python" in process.name() for process in family)
    finally:
        server.service.stop()
    assert not server.service.alive()
    assert psutil.wait_procs(family, timeout=60)[1] == []


@pytest.mark.parametrize("load_all", [True, False])
def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path, parts: dict[str, Any], *, load_all: bool) -> None:
    with pytest.raises(UsageError, match="no such model repository"):
        start_triton(str(tmp_path / "nowhere"), load_all=load_all, **parts)

"""Fixtures that integration tests share: toolchains, the example model, an engine, an S3 server.

Toolchains are created once in the checkout's `.enginery/` and kept for the next run. Everything else is made anew.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from filelock import FileLock

from enginery import toolchains
from enginery.core import s3
from enginery.toolchains.identity import Toolchain
from tests.support.engines import onnx
from tests.support.http.faulty_proxy import Proxy, faulty_proxy
from tests.support.paths import shared_by_workers
from tests.support.prefect.deployments import deployed_flows
from tests.support.prefect.server import prefect_api, prefect_server, prefect_tables
from tests.support.s3.server import S3Server, running_s3_server

__all__ = ["deployed_flows", "prefect_api", "prefect_server", "prefect_tables"]
"""These fixtures are here, so that all modules share one server: a process sends Prefect's events to only one."""

CHECKOUT = Path(__file__).parent.parent.parent
SHARED_TOOLCHAINS = CHECKOUT / ".enginery" / "toolchains"
ONNXRUNTIME = "onnxruntime-0.18"
TRITON = "triton-2.51"
TRANSFORMERS = "transformers-5.24"


def made_in_the_checkout(name: str) -> Toolchain:
    """The toolchain of this name in the checkout's `.enginery/`. It is created if it is missing."""
    before = os.environ.get("ENGINERY_HOME")
    os.environ["ENGINERY_HOME"] = str(CHECKOUT / ".enginery")
    try:
        return toolchains.ensure(name)
    finally:
        if before is None:
            del os.environ["ENGINERY_HOME"]
        else:
            os.environ["ENGINERY_HOME"] = before


@pytest.fixture(scope="session")
def toolchain() -> Toolchain:
    """The onnxruntime toolchain."""
    return made_in_the_checkout(ONNXRUNTIME)


@pytest.fixture(scope="session")
def onnxruntime_python(toolchain: Toolchain) -> Path:
    """A Python with onnxruntime-genai, torch and transformers."""
    return toolchain.python


@pytest.fixture(scope="session")
def transformers_toolchain() -> Toolchain:
    """The toolchain that runs references."""
    return made_in_the_checkout(TRANSFORMERS)


@pytest.fixture(scope="session")
def triton_site() -> Path:
    """The site-packages directory that holds nvidia-pytriton."""
    return next(made_in_the_checkout(TRITON).directory.glob("lib/python*/site-packages"))


@pytest.fixture
def shared_toolchains(own_home: Path, toolchain: Toolchain, triton_site: Path) -> Path:
    """This test's Enginery home, with the shared toolchains in it."""
    own_home.mkdir(parents=True, exist_ok=True)
    (own_home / "toolchains").symlink_to(SHARED_TOOLCHAINS)
    return own_home


@pytest.fixture(scope="session")
def tiny_weights() -> Path:
    """The directory of the example model."""
    return CHECKOUT / "examples" / "tiny-llama" / "model"


@pytest.fixture(scope="session")
def tiny_engine(toolchain: Toolchain, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example model as an int4 engine for the CPU. It is built once for all workers."""
    shared = shared_by_workers(tmp_path_factory)
    engine = shared / "tiny-engine"
    with FileLock(shared / "tiny-engine.lock"):
        if not (engine / "genai_config.json").exists():
            onnx.build(toolchain, tiny_weights, engine, "int4")
    return engine


@pytest.fixture
def s3_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A new S3 server for this test. The AWS settings point to it."""
    with running_s3_server() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def address(s3_server: S3Server) -> str:
    """The address of an empty registry in a new bucket."""
    bucket = f"engines-{uuid4().hex[:12]}"
    s3_server.create_bucket(bucket)
    return f"s3://{bucket}/prod"


@pytest.fixture
def proxy(s3_server: S3Server, address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy in front of the S3 server that can fail. The AWS settings point to it."""
    with faulty_proxy(s3_server.host, s3_server.port) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        monkeypatch.setenv("ENGINERY_S3_PATIENCE", "20")
        yield running
        s3.close_clients(running.url)

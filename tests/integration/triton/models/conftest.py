"""Fixtures of the tests of the five models: servers with the example model, and a client that asks them."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from enginery.dev.triton import TritonServer, start_triton
from enginery.spec.serving import ServingOptions
from enginery.triton.repository import RepositoryOptions, write_model_repository
from tests.support.triton.client import FiveModels


def write_repository(directory: Path, engine: Path, weights: Path, serving: ServingOptions) -> Path:
    options = RepositoryOptions(serving=serving, labels={"enginery_model": "tiny"})
    write_model_repository(directory, engine=engine, weights=weights, options=options)
    return directory


@pytest.fixture(scope="package")
def start(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_engine: Path,
    tiny_weights: Path,
    triton_site: Path,
    onnxruntime_python: Path,
) -> Iterator[Any]:
    servers: list[TritonServer] = []

    def start_serving(serving: ServingOptions, slow: float = 0.0, engine: Path = tiny_engine) -> FiveModels:
        directory = tmp_path_factory.mktemp("triton")
        repository = write_repository(directory / "models", engine, tiny_weights, serving)
        if slow:
            slow_down(repository, slow)
        servers.append(
            start_triton(
                str(repository),
                triton_site=triton_site,
                serving_python=onnxruntime_python,
                log_file=directory / "triton.log",
                load_all=True,
            )
        )
        return FiveModels(servers[-1])

    yield start_serving
    for server in servers:
        server.service.stop()


def slow_down(repository: Path, seconds: float) -> None:
    """Make each step of the engine slower, so that a test can act during an answer."""
    path = repository / "tensorrt_llm" / "1" / "enginery_models.zip"
    step = "        self._generator.generate_next_token()\n"
    with ZipFile(path) as archive:
        sources = {name: archive.read(name).decode() for name in archive.namelist()}
    assert sources["enginery_models/generation.py"].count(step) == 1
    with ZipFile(path, "w") as archive:
        for name, text in sources.items():
            archive.writestr(name, text.replace(step, f"{step}        import time\n\n        time.sleep({seconds})\n"))


@pytest.fixture(scope="session")
def padless_engine(tiny_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example model's engine as the builder makes it of a model without a token for padding.

    So are Llama 2, Mistral and many others. The last token of their vocabulary is a word; here it is " Saturday".
    """
    engine = tmp_path_factory.mktemp("padless") / "engine"
    shutil.copytree(tiny_engine, engine)
    file = engine / "genai_config.json"
    config = json.loads(file.read_text())
    config["model"]["pad_token_id"] = config["model"]["eos_token_id"]
    file.write_text(json.dumps(config))
    return engine


@pytest.fixture(scope="package")
def plain(start: Any) -> FiveModels:
    """A server that does not stream."""
    client = start(ServingOptions(max_batch_size=8))
    assert isinstance(client, FiveModels)
    return client


@pytest.fixture(scope="package")
def streaming(start: Any, padless_engine: Path) -> FiveModels:
    """A server that streams. Its model has no token for padding."""
    serving = ServingOptions(max_batch_size=8, decoupled=True, postprocessing_instance_count=2)
    client = start(serving, engine=padless_engine)
    assert isinstance(client, FiveModels)
    return client

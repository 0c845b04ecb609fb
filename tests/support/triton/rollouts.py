"""For tests of rollouts without a real Triton: a registry, and a stand-in for Triton with its model repository.

A test module imports the fixtures that it uses, and the fixtures that these use, also from `tests.support.s3`.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from enginery.builds.manifest import Manifest
from enginery.registry import Registry
from enginery.triton import loading
from enginery.triton.client import TritonClient
from enginery.triton.loading import EndpointResult
from enginery.triton.rollout import roll_out_build
from tests.support.registry.builds import ANSWERS, QUESTION, Build
from tests.support.triton.fake import FakeTriton, running_fake_triton

ORDER = ["tensorrt_llm", "preprocessing", "postprocessing", "tensorrt_llm_bls", "ensemble"]
FIRST, SECOND, THIRD = (f"cpu-int4-{number * 12}" for number in "123")


class Site:
    """A registry, and a server with its model repository."""

    def __init__(self, address: str, triton: FakeTriton) -> None:
        self.address, self.triton = address, triton
        self.registry = Registry(address)
        self.lines: list[str] = []

    def publish(self, build_id: str, answer: str = "", **more: str) -> Manifest:
        answers = {QUESTION: answer} if answer else ANSWERS
        return Build(build_id=build_id, answers=answers, **more).publish(self.address)  # type: ignore[arg-type]

    def roll_out(self, manifest: Manifest, *endpoints: str) -> list[EndpointResult]:
        urls = endpoints or (self.triton.url,)
        return roll_out_build(manifest, self.registry, urls, str(self.triton.repository), self.lines.append)

    def ask(self) -> str:
        return str(TritonClient(self.triton.url).generate("ensemble", {"text_input": QUESTION})["text_output"])

    def versions(self) -> set[str]:
        return {path.name for path in self.triton.repository.glob("*/*") if path.name.isdecimal()}


@pytest.fixture
def address(bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A registry in a new bucket. Rollouts do not wait between their tries."""
    monkeypatch.setattr(loading, "CLOCK_SECONDS", 0.0)
    monkeypatch.setattr(loading, "LOOK_SECONDS", 0.0)
    return f"s3://{bucket}/prod"


@pytest.fixture
def triton(tmp_path: Path) -> Iterator[FakeTriton]:
    (tmp_path / "models").mkdir()
    with running_fake_triton(tmp_path / "models") as running:
        yield running


@pytest.fixture
def site(address: str, triton: FakeTriton) -> Site:
    return Site(address, triton)

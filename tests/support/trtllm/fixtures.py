"""Fixtures for tests of the stand-in itself. A module imports the fixtures it uses; `trtllm_examples` is in all."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.trtllm.stand_in import StandIn, make_release
from tests.support.trtllm.using import ANSWER, PROMPT, Example

RELEASES = ("0.8.0", "0.16.0", "1.2.1")


@pytest.fixture(scope="session")
def trtllm_examples(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Example]:
    """An example for each release. All tests share them, because tests only read their files."""
    return {release: Example.of(tmp_path_factory.mktemp(release), release) for release in RELEASES}


@pytest.fixture(params=RELEASES)
def built(request: pytest.FixtureRequest, trtllm_examples: Mapping[str, Example]) -> Example:
    return trtllm_examples[request.param]


@pytest.fixture
def old(trtllm_examples: Mapping[str, Example]) -> Example:
    return trtllm_examples["0.8.0"]


@pytest.fixture
def middle(trtllm_examples: Mapping[str, Example]) -> Example:
    return trtllm_examples["0.16.0"]


@pytest.fixture
def new(trtllm_examples: Mapping[str, Example]) -> Example:
    return trtllm_examples["1.2.1"]


@pytest.fixture
def naughty(tmp_path: Path) -> StandIn:
    """A stand-in of the test's own, which the test can make fail."""
    return make_release(tmp_path / "release", "0.16.0", answers={PROMPT: ANSWER})

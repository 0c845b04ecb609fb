"""Fixtures for every test: each has its own home, and none of the user's settings."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.trtllm.fixtures import trtllm_examples

__all__ = ["trtllm_examples"]
"""The fixture is here, so that all test modules of a process share it."""

# Prefect reads this when it is imported. Without it, a test that names no server would get one that nobody stops.
os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"

# The tests' models are so small that a second thread gains nothing. On a busy machine it makes everything slower.
os.environ["OMP_NUM_THREADS"] = "1"

# Tests start hundreds of processes. Each of them would compile Enginery's modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# The time of an example depends on how busy the machine is, so it must not make a test fail.
settings.register_profile("enginery", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("enginery")

INTEGRATION = Path(__file__).parent / "integration"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore tests/integration if only other tests are wanted, because importing it takes seconds in each process."""
    return True if collection_path == INTEGRATION and config.option.markexpr == "not integration" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests under tests/integration: they use real servers, toolchains or processes. Put the longest first.

    When several processes share the tests, one of them then runs most tests of flows, with one Prefect server. The
    quick tests come last, because they can be shared evenly.
    """
    for item in items:
        if item.nodeid.startswith("tests/integration/"):
            item.add_marker(pytest.mark.integration)
    longest_first = ("tests/integration/flows/", "tests/integration/", "tests/")
    items.sort(key=lambda item: next(n for n, start in enumerate(longest_first) if item.nodeid.startswith(start)))


FOREIGN_SETTINGS = ("AWS_", "HF_", "HUGGING_FACE_", "PREFECT_", "ENGINERY_", "HUGGINGFACE_")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enginery's home for this test. The user's settings, such as credentials, are removed from the environment."""
    for name in list(os.environ):
        if name.startswith(FOREIGN_SETTINGS):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("ENGINERY_HOME", str(home))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return home


@pytest.fixture(autouse=True)
def _own_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has its own current directory."""
    monkeypatch.chdir(tmp_path)

"""What every test starts from: a home of its own, and none of the user's settings."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.trtllm.fixtures import trtllm_examples

__all__ = ["trtllm_examples"]
"""Here, so that all modules share what is made once in a process."""

# Read when Prefect is imported: a test that forgets to name a server must not be given one that nobody stops.
os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"

# Models of tests are so small that a second thread gains nothing, and on a busy machine it makes all slower.
os.environ["OMP_NUM_THREADS"] = "1"

# Tests start hundreds of processes, each of which would compile Enginery's modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# How long an example takes says how busy the machine is, and nothing of what is tested.
settings.register_profile("enginery", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("enginery")

INTEGRATION = Path(__file__).parent / "integration"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Where only the others are asked for, what lies there is not even imported: that takes seconds in each process."""
    return True if collection_path == INTEGRATION and config.option.markexpr == "not integration" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies under tests/integration, and begin with what takes longest.

    Of several processes that share the tests, one then runs most tests of flows, with one Prefect server, and the
    quick tests are left to the end, when they can be shared out evenly.
    """
    for item in items:
        if INTEGRATION in item.path.parents:
            item.add_marker(pytest.mark.integration)
    items.sort(key=lambda item: (INTEGRATION / "flows" not in item.path.parents, INTEGRATION not in item.path.parents))


FOREIGN_SETTINGS = ("AWS_", "HF_", "HUGGING_FACE_", "PREFECT_", "ENGINERY_", "HUGGINGFACE_")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enginery's home for this test; the user's credentials and addresses are out of reach."""
    for name in list(os.environ):
        if name.startswith(FOREIGN_SETTINGS):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("ENGINERY_HOME", str(home))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return home


@pytest.fixture(autouse=True)
def _where_a_test_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that writes into the current directory writes into its own."""
    monkeypatch.chdir(tmp_path)

"""What the processes that run the tests at the same time share."""

import os
from pathlib import Path

import pytest


def of_all_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of this run of the tests that all its processes share; lock what is made there."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

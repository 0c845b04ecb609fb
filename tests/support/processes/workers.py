"""A place that is shared by all processes that run the tests at the same time."""

import os
from pathlib import Path

import pytest


def shared_by_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that all pytest workers of this run share. Hold a lock while you make something in it."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

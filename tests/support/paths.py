"""Places in the checkout, and the one that all processes of a run of the tests share."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

CHECKOUT = Path(__file__).parents[2]
EXAMPLES = CHECKOUT / "examples"
TINY_LLAMA = EXAMPLES / "tiny-llama" / "model"
"""The directory of the example model."""


def shared_by_workers(tmp_path_factory: "pytest.TempPathFactory") -> Path:
    """The directory that all pytest workers of this run share. Hold a lock while you make something in it."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

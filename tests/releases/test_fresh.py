"""The package data equal what the generator makes from the source facts, if these are available."""

import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from tests.support.paths import CHECKOUT

REPOSITORY = CHECKOUT
SCRIPT = REPOSITORY / "infra" / "releases" / "compact.py"
FACTS = Path(os.environ.get("ENGINERY_RELEASE_FACTS") or REPOSITORY.parent / "shared" / "trtllm")
BY_HAND = {"replacements.json", "refusals.json", "conversion_refusals.json"}
FROM_SOURCES = {"pytorch.json"}
"""Made by `infra/releases/pytorch_models.py` from the releases' own files."""
MOST_BYTES = 500_000


def kept() -> dict[str, bytes]:
    found = (Path(str(files("enginery.releases"))) / "data").glob("*.json")
    return {path.name: path.read_bytes() for path in found}


@pytest.mark.skipif(not (FACTS / "build").is_dir(), reason="no source facts: set ENGINERY_RELEASE_FACTS to check")
def test_the_data_are_fresh(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(SCRIPT), str(FACTS), str(tmp_path)], check=True, capture_output=True)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(made) == set(kept()) - BY_HAND - FROM_SOURCES
    for name, content in made.items():
        assert content == kept()[name], f"{name}: run infra/releases/compact.py"


def test_a_directory_without_facts_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), str(tmp_path)], check=False, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "no build/trtllm-build-" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_data_stay_small() -> None:
    assert sum(len(content) for content in kept().values()) < MOST_BYTES

"""Tests of sizes as text."""

import pytest

from enginery.core.text import human_bytes


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (16_060_000_000, "16.1 GB"), (2e12, "2.0 TB")]
)
def test_bytes_are_written_for_people(count: float, text: str) -> None:
    assert human_bytes(count) == text

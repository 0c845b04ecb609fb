"""Threads that take turns as often as they can; import the fixture where it is used."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture
def often_switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)

"""The command line, run in the test's own process. A test module imports the fixture."""

import sys
from collections.abc import Callable

import pytest

from enginery.cli.app import main

Enginery = Callable[..., int]


@pytest.fixture
def enginery(monkeypatch: pytest.MonkeyPatch) -> Enginery:
    """Runs the command line in this process. Returns its exit code."""

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["enginery", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return code if isinstance(code, int) else 0 if code is None else 1

    return run

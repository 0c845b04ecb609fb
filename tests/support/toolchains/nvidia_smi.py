"""A stand-in for `nvidia-smi` on machines without a GPU. The test chooses its output and its exit status."""

import os
from pathlib import Path

import pytest

EXPECTED = "--query-gpu=name,compute_cap,memory.total --format=csv,noheader,nounits"


def install(monkeypatch: pytest.MonkeyPatch, directory: Path, answer: str, *, status: int = 0) -> None:
    """Put an `nvidia-smi` first on PATH that answers only Enginery's query."""
    script = directory / "nvidia-smi"
    script.write_text(
        f'#!/bin/sh\n[ "$*" = "{EXPECTED}" ] || exit 2\ncat <<"ANSWER"\n{answer}\nANSWER\nexit {status}\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")

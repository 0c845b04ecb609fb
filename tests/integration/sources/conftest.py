from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from enginery.core.retry import Waits
from enginery.sources import staging
from tests.support.http.hub import HubServer, running_hub


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub without models. Downloads use it without a token, and wait only shortly before they try again."""
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(staging, "WAITS", Waits(first=0.01, longest=0.02, random=0.01))
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    with running_hub(tmp_path / "hub") as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running
    close_session()

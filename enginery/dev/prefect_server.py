"""The local Prefect server: with its UI, its own settings and database, and nothing sent home."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from enginery.dev.ready import LOOPBACK

HEALTH = "/api/health"


def prefect_command(port: int) -> list[str]:
    """The command that starts it."""
    return [sys.executable, "-m", "prefect", "server", "start", "--host", LOOPBACK, "--port", str(port)]


def prefect_environment(directory: Path, port: int) -> Mapping[str, str]:
    """Its environment: the user's without its Prefect settings, which are for talking to other servers."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return kept | {
        "PREFECT_HOME": str(directory),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{directory / 'prefect.db'}",
        "PREFECT_SERVER_API_HOST": LOOPBACK,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "DO_NOT_TRACK": "1",
        "NO_COLOR": "1",
    }

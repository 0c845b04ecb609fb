"""Deploys the checkout's prefect.yaml to a Prefect server, with the commands of docs/operate.md."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from enginery.core.process.command import run
from tests.conftest import FOREIGN_SETTINGS
from tests.support.paths import CHECKOUT

POOL = "enginery-flows"
DEPLOY_SECONDS = 300.0
COMMANDS = (("flows.prepare_fleet", "infra/pools.yaml"), ("prefect", "--no-prompt", "deploy", "--all"))


def deploy_all(settings: Mapping[str, str]) -> None:
    """Make the work pools and deploy. `settings` name the server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN_SETTINGS)}
    for command in COMMANDS:
        run([sys.executable, "-m", *command], cwd=CHECKOUT, env={**kept, **settings}, timeout=DEPLOY_SECONDS)


def settings_for(api: str, home: Path) -> dict[str, str]:
    """The environment variables for commands that use the API at `api`, with a Prefect home of their own."""
    quiet = {"NO_COLOR": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    return {"PREFECT_API_URL": api, "PREFECT_HOME": str(home), **quiet}


@pytest.fixture(scope="session")
def deployed_flows(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Deploy the checkout on the session's server; returns the environment variables that name the server."""
    settings = settings_for(f"{prefect_server}/api", tmp_path_factory.mktemp("prefect-home"))
    deploy_all(settings)
    return settings

"""Creates or updates the automations of `infra/automations`: `python -m flows.automations DIRECTORY`.

The automations call a webhook. Its address is a secret: it comes from the environment variable `ENGINERY_WEBHOOK_URL`,
and is kept in a Prefect block.
"""

import os
import sys
from pathlib import Path
from uuid import UUID

import yaml
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import AutomationCore
from pydantic import ValidationError

from enginery.core.errors import EngineryError, UsageError

ADDRESS = "ENGINERY_WEBHOOK_URL"
BLOCK = "enginery-webhook"
PLACEHOLDER = "ENGINERY_WEBHOOK_BLOCK"
"""Stands in the files for the id of the block, which differs from server to server."""
HEADERS = {"Content-Type": "application/json"}


def apply(directory: Path, address: str) -> list[str]:
    """Create or update the automations in a directory's files, `*.yaml`; they call `address`. Return their names.

    Raises:
        UsageError: when the directory has no such file, or a file is not an automation.
    """
    files = sorted(directory.glob("*.yaml"))
    if not files:
        raise UsageError("holds no automations", subject=str(directory), remedy="name infra/automations of a checkout")
    wanted = [(file, file.read_text(encoding="utf-8")) for file in files]
    for file, text in wanted:
        _read(file, text.replace(PLACEHOLDER, str(UUID(int=0))))  # before anything is changed
    webhook = Webhook.model_validate({"url": address, "headers": HEADERS})
    block = webhook.save(BLOCK, overwrite=True)
    automations = [_read(file, text.replace(PLACEHOLDER, str(block))) for file, text in wanted]
    with get_client(sync_client=True) as client:
        return [_put(client, automation) for automation in automations]


def _read(file: Path, text: str) -> AutomationCore:
    try:
        return AutomationCore.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        remedy = "correct the file, or take the one that comes with Enginery"
        raise UsageError(f"is not an automation: {error}", subject=str(file), remedy=remedy) from error


def _put(client: SyncPrefectClient, automation: AutomationCore) -> str:
    before = client.read_automations_by_name(automation.name)
    if before:
        client.update_automation(before[0].id, automation)
    else:
        client.create_automation(automation)
    return automation.name


def main() -> None:
    """The command. It prints a mistake as one message."""
    try:
        address = os.environ.get(ADDRESS)
        if len(sys.argv) != 2 or not address:  # noqa: PLR2004  the program and the directory
            usage = f"{ADDRESS}=https://… python -m flows.automations infra/automations"
            raise UsageError("a directory and the address of a webhook are needed", remedy=usage)
        for name in apply(Path(sys.argv[1]), address):
            sys.stdout.write(f"{name}\n")
    except EngineryError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

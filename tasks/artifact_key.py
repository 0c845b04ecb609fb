"""The names of Prefect artifacts."""

import re


def artifact_key(*parts: str) -> str:
    """A key by Prefect's rule: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")

"""What a Hugging Face checkpoint says of its own quantization."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from enginery.errors import StoreError

QUANT_CONFIG = "hf_quant_config.json"
CONFIG = "config.json"


def read_quantization(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of its quantization: its `hf_quant_config.json`, else `config.json`; empty for none.

    Raises:
        StoreError: when one of them is no JSON object.
    """
    own = _read(checkpoint / QUANT_CONFIG)
    found = own.get("quantization") or _read(checkpoint / CONFIG).get("quantization_config") or {}
    return dict(found) if isinstance(found, Mapping) else {}


def _read(path: Path) -> dict[str, Any]:
    remedy = "see the log of the step that made it"
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise StoreError(f"is not JSON: {error}", subject=str(path), remedy=remedy) from error
    if not isinstance(content, dict):
        raise StoreError("is no JSON object", subject=str(path), remedy=remedy)
    return content

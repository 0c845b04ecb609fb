"""Prints the types of models that transformers runs as a reference, and the names of their classes, as JSON.

It runs with the Python of the toolchain `transformers`. `enginery/backends/reference/model_types.json` is its output:

    PYTHON tests/support/models/model_types.py > enginery/backends/reference/model_types.json
"""

import json
import sys

from transformers import CONFIG_MAPPING, __version__
from transformers.models.auto import modeling_auto


def main() -> None:
    """Print them, sorted."""
    tables = (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )
    types = sorted({name for table in tables for name in table if name in CONFIG_MAPPING})
    named = (made for table in tables for name, made in table.items() if name in types)
    classes = sorted({one for made in named for one in ([made] if isinstance(made, str) else made)})
    found = {"transformers": __version__, "types": types, "classes": classes}
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Places in the checkout."""

from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
EXAMPLES = CHECKOUT / "examples"
TINY_LLAMA = EXAMPLES / "tiny-llama" / "model"
"""The directory of the example model."""

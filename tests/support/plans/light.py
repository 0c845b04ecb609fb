"""What specs say to leave out the checks that take time, in tests that are not about them."""

from typing import Any

LIGHT: dict[str, Any] = {"reference": {"use": "off"}, "gates": {"speed": "off"}}
"""For `validation`: no reference and no measurement of speed. They take about 20 seconds together."""

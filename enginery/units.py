"""Quantities as people read them."""

UNIT_STEP = 1000.0


def human_bytes(count: float) -> str:
    """A number of bytes for people, such as `16.1 GB`, in steps of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < UNIT_STEP:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= UNIT_STEP
    return f"{count:.1f} TB"

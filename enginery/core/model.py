"""The base class of all values that are written to JSON and read back."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A value that cannot change once made."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

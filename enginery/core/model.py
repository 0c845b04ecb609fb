"""The base class of values that are written to JSON and read back."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """An immutable value. A field that the class does not have is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

"""What to do when a new release of a backend comes out: the part `releases` of a spec."""

from typing import Annotated, Self

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from pydantic import Field, field_validator, model_validator

from enginery.spec.types import Name, SpecModel

Percent = Annotated[float, Field(ge=0)]


class Gates(SpecModel):
    """How much worse a build of a new release may be than the one it takes the place of."""

    slower_percent: Percent = 10.0
    """How many percent fewer tokens a second the validation may come to."""
    larger_percent: Percent = 20.0
    """How many percent larger the engine may be."""


class Releases(SpecModel):
    """What to do when the package index lists a new release. No part of any step's key."""

    watch: bool = False
    """Look for new releases whenever `watch-releases` runs."""
    prereleases: bool = False
    """Count previews such as `1.3.0rc4` as releases."""
    within: str = ""
    """A range that releases must be in, such as `<2`; any release when left out."""
    targets: tuple[Name, ...] = ()
    """The targets to build anew; all of them when left out."""
    rebuild: bool = True
    """Start builds of a new release. Without it, only the verdict is told."""
    build_channel: Name = "rebuild"
    """The channel that builds of a new release are published to. Nothing should serve from it."""
    promote_to: Name | None = "candidate"
    """The channel to move to a build of a new release that is not worse than the one it points to; none with `null`."""
    gates: Gates = Gates()
    """What counts as worse."""

    @field_validator("within")
    @classmethod
    def _is_a_range(cls, within: str) -> str:
        try:
            SpecifierSet(within)
        except InvalidSpecifier as error:
            raise ValueError(f"{within!r} is no range of versions, such as '>=1.0,<2'") from error
        return within

    @model_validator(mode="after")
    def _channels_differ(self) -> Self:
        if self.promote_to == self.build_channel:
            raise ValueError("build_channel and promote_to must be two channels: what is built is compared first")
        return self

"""Why no build was found, or no single one: the near misses with their reasons, the options that tell builds apart."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from enginery.errors import RegistryError
from enginery.manifest import Manifest
from enginery.registry.asked import AUTO, Asked
from enginery.registry.fitting import Host

SHOWN = 10


class Miss(NamedTuple):
    """A build that does not fit, and every reason in words."""

    reference: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.reference}: {'; '.join(self.reasons)}"


def nearest(misses: Sequence[Miss]) -> list[Miss]:
    """The near ones: those with the fewest reasons first, and not too many of them."""
    return sorted(misses, key=lambda miss: len(miss.reasons))[:SHOWN]


class NothingFits(RegistryError):  # noqa: N818  it says what happened
    """No build is what was asked for and runs where it should.

    Attributes:
        misses: every build that was looked at, with the reasons why not.
    """

    def __init__(self, asked: Asked, host: Host, misses: Sequence[Miss]) -> None:
        self.misses = tuple(misses)
        if not misses:
            if asked.channel:
                where = f"channel {asked.channel} of {asked.model}" + (f" for {asked.target}" if asked.target else "")
                remedy = f"see where its channels point with `enginery channels {asked.model}`"
            else:
                where, remedy = asked.model, "see what is published with `enginery list`"
            super().__init__("nothing is published there", subject=where, remedy=remedy)
            return
        which = f" ({host.gpu.name})" if asked.gpu == AUTO and host.gpu else ""
        shown = nearest(misses)
        lines = "".join(f"\n  {miss}" for miss in shown)
        more = f"\n  and {len(misses) - len(shown)} more" if len(misses) > len(shown) else ""
        remedy = "ask for something else, or build one for this: add a target to the spec"
        super().__init__(
            f"no build fits; the nearest:{lines}{more}", subject=f"{asked.described}{which}", remedy=remedy
        )


class SeveralFit(RegistryError):  # noqa: N818
    """More builds than one fit, and none of them better than the others.

    Attributes:
        references: the builds.
        options: what tells them apart: option -> the values that they have.
    """

    def __init__(self, asked: Asked, manifests: Sequence[Manifest]) -> None:
        self.references = tuple(manifest.reference for manifest in manifests)
        self.options = _telling(manifests)
        lines = "".join(f"\n  {_line(manifest)}" for manifest in manifests[:SHOWN])
        more = f"\n  and {len(manifests) - SHOWN} more" if len(manifests) > SHOWN else ""
        told = " or ".join(f"{option} ({', '.join(values)})" for option, values in self.options.items())
        problem = f"{len(manifests)} builds fit equally well:{lines}{more}"
        super().__init__(problem, subject=asked.described, remedy=f"tell them apart with {told}")


_OPTIONS: dict[str, Callable[[Manifest], str]] = {
    "--target": lambda manifest: manifest.target.name,
    "--backend": lambda manifest: manifest.target.backend,
    "--precision": lambda manifest: manifest.target.precision,
    "--world-size": lambda manifest: str(manifest.target.world_size),
    "--release": lambda manifest: manifest.target.release,
    "--gpu": lambda manifest: manifest.target.gpu,
    "--build": lambda manifest: manifest.build_id,
}
"""In the order in which people would choose; a build's id always tells."""


def _telling(manifests: Sequence[Manifest]) -> dict[str, list[str]]:
    found = {option: sorted({of(manifest) for manifest in manifests}) for option, of in _OPTIONS.items()}
    telling = {option: values for option, values in found.items() if len(values) > 1}
    return (
        telling if len(telling) == 1 else {option: values for option, values in telling.items() if option != "--build"}
    )


def _line(manifest: Manifest) -> str:
    target = manifest.target
    gpus = "1 GPU" if target.world_size == 1 else f"{target.world_size} GPUs"
    kind = f"target {target.name}, {target.backend} {target.release}, {target.precision}, {target.gpu}, {gpus}"
    return f"{manifest.reference}: {kind}"

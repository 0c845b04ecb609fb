"""Which build a command means: the one it names, or the one that fits what it says of a place."""

import re

from enginery.context import Log
from enginery.errors import UsageError
from enginery.manifest import BUILD_ID_DIGITS, Manifest
from enginery.registry.asked import Asked
from enginery.registry.reading import Registry

_BUILD_ID = re.compile(rf".+-[0-9a-f]{{{BUILD_ID_DIGITS}}}")


def find_build(registry: Registry, reference: str) -> tuple[Manifest, str | None]:
    """The build meant by a reference as `Registry.find` takes it, and the channel in it, if one is.

    `MODEL/BUILD` in full and `MODEL@CHANNEL/TARGET` are found without listing the bucket, which a consumer may not be
    allowed to.

    Raises:
        RegistryError: when there is none, or more than one; near ones are named.
    """
    if "@" in reference:
        return registry.find(reference), reference.partition("@")[2].partition("/")[0]
    model, slash, build_id = reference.rpartition("/")
    exact = registry.read(model, build_id) if slash and model and build_id else None
    return exact or registry.find(reference), None


def choose_build(registry: Registry, asked: Asked, log: Log) -> tuple[Manifest, str | None]:
    """The build that is asked for, and the channel it was found by, if it was.

    Args:
        registry: where.
        asked: in `model` either a model's name, of which the build that fits the rest is taken, or a reference to a
            build, which is taken whatever it fits.
        log: told what to know of running it.

    Raises:
        UsageError: when a reference to a build comes with what it must fit.
        RegistryError: when there is no such build, or not just one.
    """
    if "/" in asked.model or "@" in asked.model or _BUILD_ID.fullmatch(asked.model):
        if given := asked.model_dump(exclude={"model", "gpu"}, exclude_defaults=True):
            remedy = f"leave out {', '.join(given)}, or give the model's name alone"
            raise UsageError("names a build already", subject=asked.model, remedy=remedy)
        return find_build(registry, asked.model)
    from enginery.registry.resolving import resolve  # noqa: PLC0415  not needed for what is named

    resolved = resolve(registry, asked)
    for warning in resolved.warnings:
        log(f"warning: {warning}")
    return resolved.manifest, asked.channel

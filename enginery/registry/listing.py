"""Published builds in one line each; and reading many things of a registry, of which one may not be sound."""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import NamedTuple, TypeVar

from enginery.errors import RegistryError
from enginery.manifest import Manifest
from enginery.parallel import side_by_side
from enginery.steps import Frozen

READERS = 16

T = TypeVar("T")
R = TypeVar("R")


class PublishedBuild(Frozen):
    """A published build in one line; `size` is in bytes."""

    model: str
    build_id: str
    target: str
    gpu: str
    backend: str
    release: str
    precision: str
    channel: str
    created: datetime
    size: int

    @classmethod
    def of(cls, manifest: Manifest) -> "PublishedBuild":
        """The line for a manifest."""
        target = manifest.target
        return cls(
            model=manifest.model,
            build_id=manifest.build_id,
            target=target.name,
            gpu=target.gpu,
            backend=target.backend,
            release=target.release,
            precision=target.precision,
            channel=manifest.channel,
            created=manifest.created,
            size=manifest.size,
        )


class Listing(NamedTuple):
    """Published builds, newest last, and what is wrong with those that cannot be read."""

    builds: list[PublishedBuild]
    unsound: list[RegistryError]


def read_each(read: Callable[[T], R | None], names: Iterable[T]) -> tuple[list[R], list[RegistryError]]:
    """What can be read, side by side, and what is wrong with the rest; what is gone meanwhile is neither.

    Raises:
        RegistryError: when the registry itself cannot be read just now.
    """

    def attempt(one: T) -> R | RegistryError | None:
        try:
            return read(one)
        except RegistryError as error:
            if error.transient:
                raise
            return error

    answers = side_by_side(attempt, names, threads=READERS)
    unsound = [answer for answer in answers if isinstance(answer, RegistryError)]
    return [answer for answer in answers if answer is not None and not isinstance(answer, RegistryError)], unsound

"""One clear error for all that failed in a build."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from enginery.errors import EngineryError


class BuildError(EngineryError):
    """Several steps of a build failed.

    Attributes:
        errors: labels of steps -> why each failed.
    """

    def __init__(self, errors: Mapping[str, EngineryError], skipped: Sequence[str]) -> None:
        self.errors = dict(errors)
        listed = "".join(f"\n- {_at(label, error)}" for label, error in errors.items())
        super().__init__(f"{len(errors)} steps failed:{listed}{because_of_it(skipped)}", remedy=REMEDY)
        codes = {error.exit_code for error in errors.values()}
        self.exit_code = codes.pop() if len(codes) == 1 else EngineryError.exit_code
        for error in errors.values():
            for note in getattr(error, "__notes__", ()):
                self.add_note(note)


@dataclass(frozen=True)
class Parts:
    """What an error that ends a build was made of.

    Attributes:
        errors: labels of steps -> why each failed.
        skipped: labels of the steps that did not run because of them.
    """

    errors: Mapping[str, EngineryError]
    skipped: tuple[str, ...]


def parts_of(error: Exception) -> Parts | None:
    """What the error of a build was made of, also when it comes from another machine; None for any other error."""
    found = vars(error).get(PARTS)
    return found if isinstance(found, Parts) else None


PARTS = "parts_of_build"
REMEDY = "correct the causes and build again: finished steps are kept"


def because_of_it(skipped: Sequence[str]) -> str:
    """Names what did not run because something before it failed."""
    return f"\nnot run because of it: {', '.join(skipped)}" if skipped else ""


def failure(errors: Mapping[str, Exception], skipped: Sequence[str]) -> EngineryError:
    """The error to end a build with.

    A single one stays what it is, so that its class and exit code tell what happened; it names its step and what did
    not run because of it. Several become one that lists them.

    Args:
        errors: labels of steps -> why each failed; at least one.
        skipped: labels of the steps that did not run because of them.
    """
    known = {label: _understood(error) for label, error in errors.items()}
    told = BuildError(known, skipped) if len(known) > 1 else _single(*next(iter(known.items())), skipped)
    vars(told)[PARTS] = Parts(known, tuple(skipped))
    return told


def _single(label: str, error: EngineryError, skipped: Sequence[str]) -> EngineryError:
    told = _at(label, error)
    told.problem = f"{error.problem}{because_of_it(skipped)}"
    told.__cause__ = error
    return told


def _at(label: str, error: EngineryError) -> EngineryError:
    """A copy that names the step, once: some errors name it themselves."""
    told = copy.copy(error)
    told.subject = f"{label}: {error.subject}" if error.subject not in {"", label} else label
    return told


def _understood(error: Exception) -> EngineryError:
    """An error of ours as it is; anything else as an error that says what it is."""
    if isinstance(error, EngineryError):
        return error
    unforeseen = EngineryError(f"{type(error).__name__}: {error}", remedy="see the run's log")
    unforeseen.__cause__ = error
    return unforeseen

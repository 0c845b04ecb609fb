"""What a build must have passed before a channel is moved to it."""

from collections.abc import Callable, Iterator

from enginery.manifest import Manifest

Gate = Callable[[Manifest], Iterator[str]]
"""Says what of a build did not pass, each in one sentence; nothing for a build that did."""


def answers_as_expected(manifest: Manifest) -> Iterator[str]:
    """The gate of the validation: what the engine was asked before it was published."""
    report = manifest.validation
    if not report.passed:
        yield f"validation: {len(report.misses)} of {len(report.results)} answers are not as expected"


GATES: tuple[Gate, ...] = (answers_as_expected,)
"""Every gate; those to come are added here."""


def failures(manifest: Manifest) -> tuple[str, ...]:
    """What of a build did not pass its gates; empty for a build that may be promoted."""
    return tuple(failure for gate in GATES for failure in gate(manifest))

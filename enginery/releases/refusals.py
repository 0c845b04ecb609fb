"""What releases refuse or change in their code, after their commands have parsed the arguments.

A parser's own rules are flags (`enginery.releases.flags`). What stands here was read in the code behind it: assertions,
exceptions, and options that are set to something else than what was asked for. Each record has an id that begins with
the command, `trtllm-build`, `quantize.py`, `convert_checkpoint.py FAMILY` or `LLM API`, and says what is refused:

    refusal("trtllm-build: gather_context_logits with max_draft_len", "0.16.0").value.place

The records are in `data/refusals.json` and, for the scripts that make checkpoints, `data/conversion_refusals.json`.
`infra/releases/refusals.py` compares their places with a copy of the sources.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from packaging.version import Version

from enginery.releases import facts
from enginery.releases.facts import Certainty, Known
from enginery.releases.flags import QUANTIZE

TOPICS = ("refusals", "conversion_refusals")
"""The topics of facts with records: the builder and the LLM API, then what makes checkpoints."""
CONVERTERS = ("convert_checkpoint.py", QUANTIZE)
"""Beginnings of the ids in the second topic."""
LLM_API = "LLM API"
"""The records of the LLM API hold also in releases that build no engines any more."""


class Effect(StrEnum):
    """What the release does."""

    REFUSES = "refuses"
    """It stops with an error that says why."""
    FAILS = "fails"
    """It stops with an error that does not say why, or makes a wrong result."""
    CHANGES = "changes"
    """It goes on with something else than what was asked for."""
    GUESSES = "guesses"
    """It finds out by itself, such as from a path, what can also be said with an argument."""


@dataclass(frozen=True)
class Refusal:
    """What a release does with one combination of arguments.

    Attributes:
        id: the command, and what is refused.
        release: the release that does it: the requested one, or the nearest one that was read.
        place: file and line in that release's sources.
        says: what is done and why, in our own words, as the rest of a sentence that begins with the release.
        models: TensorRT-LLM's classes of models that it is not done for, for a record that depends on them.
        unlike: the nearest read release on the other side, if it does otherwise and the requested one was not read.
    """

    id: str
    effect: Effect
    release: str
    place: str
    says: str
    models: frozenset[str] = frozenset()
    unlike: str = ""

    @property
    def certain(self) -> bool:
        """Whether it is known what the release does."""
        return not self.unlike

    @property
    def stops(self) -> bool:
        """Whether the command ends with an error."""
        return self.effect in {Effect.REFUSES, Effect.FAILS}


@cache
def refusal(name: str, release: str) -> Known[Refusal | None]:
    """What a release does according to one record; None if it accepts the arguments.

    For a release that was not read, the nearest one counts. If its neighbours differ, the stricter one counts, and the
    record is not certain.

    Raises:
        UsageError: when there is no such record, or the release is older than all known ones.
    """
    if not name.startswith(LLM_API) and not facts.builds_engines(release):
        return Known(None, facts.REMOVAL)
    effect = facts.look_up(_topic(name), name, release, "effect")
    if effect.provenance.certainty is not Certainty.NEAREST:
        return Known(_made(name, effect.provenance.release), effect.provenance)
    around = {one: _effect(name, one) for one in _around(name, release)}
    chosen = min(around, key=lambda one: (_RANK[around[one]], one != effect.provenance.release))
    differing = [one for one in around if around[one] != around[chosen]]
    return Known(_made(name, chosen, "".join(differing)), effect.provenance)


@cache
def refusal_ids(command: str = "") -> tuple[str, ...]:
    """The ids of all records, or of one command."""
    every = (one for topic in TOPICS for one in facts.subjects(topic))
    return tuple(one for one in every if not command or one.startswith(f"{command}: "))


def recorded(name: str, release: str, fact: str) -> Any:
    """A further fact of a record, such as the names of models that it does not hold for; None if it has none there."""
    return facts.look_up(_topic(name), name, release, fact).value


_RANK = {Effect.REFUSES: 0, Effect.FAILS: 0, Effect.CHANGES: 1, Effect.GUESSES: 2, None: 3}
"""How strict an effect is, the strictest first."""


def _topic(name: str) -> str:
    return TOPICS[name.startswith(CONVERTERS)]


def _effect(name: str, release: str) -> Effect | None:
    found = facts.look_up(_topic(name), name, release, "effect").value
    return Effect(found) if found else None


def _made(name: str, release: str, unlike: str = "") -> Refusal | None:
    found = facts.look_up(_topic(name), name, release).value
    if not found:
        return None
    place, says, models = found["place"], found["says"], frozenset(found.get("models", ()))
    return Refusal(name, Effect(found["effect"]), release, place, says, models, unlike)


def _around(name: str, release: str) -> Iterator[str]:
    """The releases before and after a release that was not read for a record."""
    read, wanted = facts.releases_read(_topic(name), name), Version(release)
    yield from [one for one in read if Version(one) < wanted][-1:]
    yield from [one for one in read if Version(one) > wanted][:1]

"""Applies the rules to an engine's options: findings for what the release refuses, notes for what it changes.

A release that was not read may or may not refuse: then the finding is a warning. If the option was not even asked for,
but is on by default, it is a note.
"""

from collections.abc import Iterator
from typing import NamedTuple

from enginery.backends.tensorrt.build_defaults import EngineOptions, in_yaml
from enginery.backends.tensorrt.refusals.options import value
from enginery.backends.tensorrt.refusals.rule import Rule
from enginery.backends.tensorrt.refusals.rules import RULES
from enginery.releases import BUILD, Refusal, builds_engines, refusal
from enginery.spec import BuildOptions, Finding, warning

UNCERTAIN = "W166"
"""The code of a refusal by the releases before or after one that was not read, but not by both."""


class Applied(NamedTuple):
    """A rule that an engine falls under, and what the release does about it."""

    rule: Rule
    refusal: Refusal

    def stops(self, engine: EngineOptions) -> bool:
        """Whether this must stop the plan."""
        return self.refusal.stops and (self.refusal.certain or _is_asked_for(engine, self.rule))


def applied(engine: EngineOptions) -> Iterator[Applied]:
    """The rules that the engine falls under in its release; none if the release builds no engines."""
    for rule in RULES if builds_engines(engine.release) else ():
        found = refusal(f"{BUILD}: {rule.id}", engine.release).value
        if found is not None and rule.holds(engine):
            yield Applied(rule, found)


def refusal_findings(engine: EngineOptions) -> Iterator[Finding]:
    """Findings for what the release refuses: the gravest one for each field."""
    stopping = sorted((one for one in applied(engine) if one.stops(engine)), key=lambda one: not one.refusal.certain)
    for rule, found in {one.rule.field: one for one in reversed(stopping)}.values():
        problem = f"{_sentence(engine, found)}{_values(engine, rule)}"
        make = Finding if found.certain else warning
        yield make(rule.code if found.certain else UNCERTAIN, rule.field, problem, rule.remedy)


def change_notes(engine: EngineOptions) -> Iterator[str]:
    """Notes on what the release changes, and on what it may refuse although nobody asked for it."""
    for one in applied(engine):
        if not one.stops(engine):
            yield f"{one.rule.field}: {_sentence(engine, one.refusal)}{_values(engine, one.rule)}"


def _sentence(engine: EngineOptions, found: Refusal) -> str:
    if not found.certain:
        return f"{found.release} {found.says}, {found.unlike} does not, and {engine.release} was not read"
    known = "" if found.release == engine.release else f" (known of {found.release})"
    return f"{engine.release} {found.says}{known}"


def _values(engine: EngineOptions, rule: Rule) -> str:
    shown = [
        f"{field} is {in_yaml(value(engine, field))}{'' if _given(engine, field) else ' by default'}"
        for field in rule.shown
    ]
    return f": {', '.join(shown)}" if shown else ""


def _is_asked_for(engine: EngineOptions, rule: Rule) -> bool:
    field = rule.field.removeprefix("build.")
    return field not in BuildOptions.model_fields or _given(engine, field)


def _given(engine: EngineOptions, field: str) -> bool:
    return getattr(engine.options, field) is not None

"""The arguments of the LLM API in a release: which keys a class takes, and their defaults."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from enginery.releases import facts
from enginery.releases.provenance import Known

PYTORCH = "TorchLlmArgs"
BASES = "(bases)"


@dataclass(frozen=True)
class Argument:
    """One key of a class of arguments.

    Attributes:
        name: the key.
        annotation: its type as the source writes it; empty where only the default is known.
        default: its default; None also where it has none.
        default_factory: what makes the default; empty for a plain one.
        choices: the only values it takes; empty for any.
        required: whether it must be given.
        status: `prototype`, `beta` or `deprecated` where the source says so.
    """

    name: str
    annotation: str = ""
    default: Any = None
    default_factory: str = ""
    choices: tuple[Any, ...] = ()
    required: bool = False
    status: str = ""


def classes() -> tuple[str, ...]:
    """The classes of arguments that are known of some release."""
    return facts.subjects("arguments")


def arguments(release: str, name: str = PYTORCH) -> Known[Mapping[str, Argument]]:
    """The keys of a class, with those of its base classes; none when the release does not have the class.

    Raises:
        UsageError: there is no such class, or nothing is known of so old a release.
    """
    found = facts.look_up("arguments", name, release)
    own = dict(found.value or {})
    made: dict[str, Argument] = {}
    for base in own.pop(BASES, ()):
        made |= arguments(found.provenance.release, base).value
    made |= {key: _argument(key, fact) for key, fact in own.items()}
    return Known(made, found.provenance)


def _argument(name: str, fact: Mapping[str, Any]) -> Argument:
    return Argument(
        name,
        annotation=fact.get("annotation") or fact.get("type") or "",
        default=fact.get("default"),
        default_factory=fact.get("default_factory", ""),
        choices=tuple(fact.get("choices", ())),
        required=bool(fact.get("required", _has_no_default(fact))),
        status=fact.get("status", ""),
    )


def _has_no_default(fact: Mapping[str, Any]) -> bool:
    return "annotation" in fact and "default" not in fact and "default_factory" not in fact

"""Which models a release can convert: architectures, and the family whose converter serves each."""

from collections.abc import Mapping
from dataclasses import dataclass

from enginery.releases import facts
from enginery.releases.flags import script
from enginery.releases.known import REMOVAL, builds_engines
from enginery.releases.provenance import Known


@dataclass(frozen=True)
class Family:
    """A family of models with a converter of its own.

    Attributes:
        name: the converter's directory, such as `llama`.
        architectures: what it serves, mostly the `architectures` of a Hugging Face `config.json`.
        tie: how that is known: `script` (it names them) or, weaker, `module name`.
    """

    name: str
    architectures: tuple[str, ...]
    tie: str

    @property
    def command(self) -> str:
        """Its converter, as `flags` knows it."""
        return f"convert_checkpoint.py {self.name}"


def families(release: str) -> Known[Mapping[str, Family]]:
    """The families of a release by name; none once engines are no longer built."""
    found = facts.look_up("families", "families", release)
    if not builds_engines(release):
        return Known({}, REMOVAL)
    made = {name: Family(name, tuple(fact["architectures"]), fact["tie"]) for name, fact in (found.value or {}).items()}
    return Known(made, found.provenance)


def families_of(release: str, architecture: str) -> Known[tuple[Family, ...]]:
    """The families whose converter serves an architecture, surest first; none where the release does not know it."""
    found = families(release)
    serving = [family for family in found.value.values() if architecture in family.architectures]
    return Known(tuple(sorted(serving, key=lambda family: family.tie != "script")), found.provenance)


def architectures(release: str) -> Known[Mapping[str, str]]:
    """Architecture -> TensorRT-LLM's class for it; none once engines are no longer built."""
    found = facts.look_up("families", "architectures", release)
    if not builds_engines(release):
        return Known({}, REMOVAL)
    return Known(found.value or {}, found.provenance)


def converter(release: str, family: str) -> Known[str | None]:
    """Where the family's `convert_checkpoint.py` lies in the release's repository; None without one."""
    return script(release, f"convert_checkpoint.py {family}")

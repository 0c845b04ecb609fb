"""Which of a release's converters makes a checkpoint of a model."""

from dataclasses import dataclass
from functools import cache

from packaging.version import Version

from enginery.releases import families as facts
from enginery.releases.families import Family
from enginery.releases.known import builds_engines, releases

NEEDS_MORE = {
    "medusa": "it needs a model's Medusa heads besides",
    "eagle": "it needs an EAGLE draft model besides",
    "redrafter": "it needs a drafter model besides",
    "grok": "it reads weights in a form of its own",
    "bert": "it generates no text",
    "cogvlm": "its engines take images",
    "dit": "it makes images",
    "enc_dec": "it has an engine for the encoder and one for the decoder",
    "mllama": "its engines take images",
    "mmdit": "it makes images",
    "stdit": "it makes films",
    "vit": "its engines take images",
    "whisper": "it has an engine for the encoder and one for the decoder",
}
"""Families that are not made from a model's directory alone into one engine that writes text, and why."""

SERVED_SINCE = {
    "baichuan": {"BaiChuanForCausalLM": "0.8.0"},
    "chatglm": {"ChatGLMModel": "0.8.0"},
    "gpt": {"GPT2LMHeadModel": "0.9.0", "GPTBigCodeForCausalLM": "0.9.0", "Starcoder2ForCausalLM": "0.9.0"},
    "phi": {"Phi3ForCausalLM": "0.10.0"},
    "qwen": {"QWenLMHeadModel": "0.9.0", "Qwen2ForCausalLM": "0.10.0", "Qwen2MoeForCausalLM": "0.11.0"},
}
"""Family -> architectures that its script serves without naming them, and since when: read from the choices of its
flags (`--qwen_type qwen2`, `--gpt_variant starcoder2`, `--model_version v1_7b`, …) and its README."""


@dataclass(frozen=True)
class FamilyChoice:
    """The converter for an architecture.

    Attributes:
        family: its family; None where the release has none, or none that makes one engine of the model alone.
        obstacle: the family there is, and why it is of no use here; empty otherwise.
        indirect: whether the facts say so only of another architecture that the release treats as the same.
    """

    family: str | None
    obstacle: str = ""
    indirect: bool = False


@cache  # every target of a plan asks the same
def family_for(release: str, architecture: str) -> FamilyChoice:
    """The plainest converter of a release that serves an architecture."""
    direct = facts.families_of(release, architecture).value or _serving_unnamed(release, architecture)
    found = direct or _of_the_same_class(release, architecture)
    plain = [family.name for family in found if family.name not in NEEDS_MORE]
    if plain:
        return FamilyChoice(_nearest_name(plain, architecture), indirect=not direct)
    if found:
        return FamilyChoice(None, f"{found[0].name}: {NEEDS_MORE[found[0].name]}")
    return FamilyChoice(None)


@cache
def first_release(architecture: str) -> str:
    """The first known release with a converter for an architecture; empty for none."""
    having = (one for one in releases() if builds_engines(one) and family_for(one, architecture).family)
    return next(having, "")


def architectures(release: str) -> list[str]:
    """The architectures that a release has a converter for, sorted."""
    served = {name for family in facts.families(release).value.values() for name in family.architectures}
    unnamed = {name for served_since in SERVED_SINCE.values() for name in served_since}
    every = served | unnamed | set(facts.architectures(release).value)
    return sorted(name for name in every if family_for(release, name).family)


def _serving_unnamed(release: str, architecture: str) -> tuple[Family, ...]:
    """The families whose script serves an architecture without naming it."""
    since = {name: served[architecture] for name, served in SERVED_SINCE.items() if architecture in served}
    every = facts.families(release).value
    return tuple(every[name] for name, first in since.items() if name in every and Version(release) >= Version(first))


def _of_the_same_class(release: str, architecture: str) -> tuple[Family, ...]:
    """Families of other architectures for which the release has the same class, as Mistral's is Llama's."""
    classes = facts.architectures(release).value
    same = {name for name, made in classes.items() if made == classes.get(architecture)}
    every = facts.families(release).value.values()
    return tuple(family for family in every if same & set(family.architectures))


def _nearest_name(names: list[str], architecture: str) -> str:
    """The longest name that is part of the architecture's, as `qwen` is of Qwen2ForCausalLM; else the first, surest."""
    within = [name for name in names if name in architecture.casefold()]
    return max(within, key=len) if within else "llama" if "llama" in names else names[0]

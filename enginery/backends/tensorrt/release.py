"""What is chosen for a target of the backend `tensorrt`: its release, the model's converter, the number formats."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from enginery.backends.common import newest_release
from enginery.backends.request import Request
from enginery.core.errors import UsageError
from enginery.core.versions import LATEST, full, is_range, is_version, mistake
from enginery.models import ModelFacts
from enginery.releases import (
    ENGINES_UNTIL,
    Family,
    builds_engines,
    model_formats,
    releases,
    stable_releases,
    was_never_made,
)
from enginery.releases import models as facts
from enginery.spec import FLOATS, Finding, Gpu, Precision

BEYOND_ALL_RELEASES = "9999"
"""A version later than any release: a range that contains it has no upper limit."""

UNSUPPORTED_FAMILIES = {
    "medusa": "it also needs the model's Medusa heads",
    "eagle": "it also needs an EAGLE draft model",
    "redrafter": "it also needs a drafter model",
    "grok": "it reads weights in a format of its own",
    "bert": "it generates no text",
    "cogvlm": "its engines take images",
    "dit": "it makes images",
    "enc_dec": "it has an engine for the encoder and one for the decoder",
    "mllama": "its engines take images",
    "mmdit": "it makes images",
    "stdit": "it makes videos",
    "vit": "its engines take images",
    "whisper": "it has an engine for the encoder and one for the decoder",
}
"""Family whose converter cannot make one text engine from the model's directory alone -> why."""

OTHER_POSITIONS = "its engine takes rotary positions (M-RoPE) that only a program for images computes"
UNSUPPORTED_ARCHITECTURES = {
    "LlavaLlamaModel": "it also needs the Python code of VILA",
    "Qwen2VLForConditionalGeneration": OTHER_POSITIONS,
    "Qwen2VLModel": OTHER_POSITIONS,
}
"""The same for single architectures of a family that is otherwise used."""

MODELOPT_FAMILIES = ("GPT2", "GPTBigCode", "Gemma", "Llama", "Mistral", "Mixtral", "QWen", "Qwen2", "MPT", "Dbrx")
"""Start of the names of architectures for which ModelOpt can write a checkpoint for TensorRT-LLM."""

UNNAMED_SINCE = {
    "baichuan": {"BaiChuanForCausalLM": "0.8.0"},
    "chatglm": {"ChatGLMModel": "0.8.0"},
    "internlm2": {"InternLM2ForCausalLM": "0.11.0"},
    "gpt": {"GPT2LMHeadModel": "0.9.0", "GPTBigCodeForCausalLM": "0.9.0", "Starcoder2ForCausalLM": "0.9.0"},
    "phi": {"Phi3ForCausalLM": "0.10.0"},
    "qwen": {"QWenLMHeadModel": "0.9.0", "Qwen2ForCausalLM": "0.10.0", "Qwen2MoeForCausalLM": "0.11.0"},
}
"""Family -> architectures that its script supports but does not name, each with the first release. Read from the
choices of its flags (`--qwen_type qwen2`, `--gpt_variant starcoder2`, `--model_version v1_7b`, …) and its README.
InternLM2 is also named by Llama's script, which cannot read its weights before 0.15."""

TABLE_ROWS = {
    "Baichuan": "Baichuan",
    "BaiChuan": "Baichuan",
    "Bloom": "BLOOM",
    "ChatGLM": "ChatGLM",
    "Dbrx": "DBRX",
    "Falcon": "Falcon",
    "GPT2": "GPT",
    "GPTJ": "GPT-J",
    "GPTNeoX": "GPT-NeoX",
    "Gemma": "Gemma",
    "InternLM2": "InternLM2",
    "InternLM": "InternLM",
    "Llama": "LLaMA",
    "MPT": "MPT",
    "Mamba": "Mamba",
    "Mistral": "Mistral",
    "Mixtral": "Mixtral",
    "OPT": "OPT",
    "Phi": "Phi",
    "QWen": "Qwen",
    "Qwen": "Qwen",
    "RW": "Falcon",
    "RecurrentGemma": "RecurrentGemma",
    "Skywork": "Skywork",
    "Starcoder2": "StarCoder2",
}
"""Start of an architecture's name -> the model's row in a release's precision table."""

TABLE_COLUMNS = {
    Precision.FP8: "FP8",
    Precision.INT8_SMOOTHQUANT: "W8A8 SQ",
    Precision.INT8_WEIGHT_ONLY: "W8A16",
    Precision.INT4_WEIGHT_ONLY: "W4A16",
    Precision.INT4_AWQ: "W4A16 AWQ",
    Precision.NVFP4: "NVFP4",
}
"""Quantized precision -> its column in that table. The table has no column for other precisions."""
WEIGHT_ONLY = {Precision.INT8_WEIGHT_ONLY: "int8", Precision.INT4_WEIGHT_ONLY: "int4"}
"""Precisions that need no calibration -> TensorRT-LLM's names for their weights."""

SCRIPT_SMOOTHQUANT = "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"
"""`quant_algo` in a SmoothQuant checkpoint of a family's own converter, with the options that Enginery gives it."""
KvCache = Literal["", "fp8", "int8", "nvfp4"]


@cache  # the same for every target of a plan
def chosen_release(wanted: str) -> str:
    """The release that is chosen for a version, a range or `latest`; empty if there is none.

    A version without facts of its own can be chosen, too. Then the facts of the nearest release are used.
    """
    if refusal(wanted) is not None:
        return ""
    return full(wanted) if is_version(wanted) else _newest(wanted)


@cache
def refusal(wanted: str) -> Finding | None:
    """The finding that says why no release can be chosen to build engines; None if one can."""
    if problem := mistake(wanted):
        return _finding("E101", problem, f"write a release, such as {_newest(LATEST)}")
    if is_version(wanted):
        return _version_refusal(wanted)
    if _newest(wanted):
        return None
    if is_range(wanted) and SpecifierSet(wanted).contains(BEYOND_ALL_RELEASES):
        return _no_engines(wanted)
    return _finding("E102", f"no known release fits {wanted!r}", _use_known())


def is_known(release: str) -> bool:
    """Whether there are facts of exactly this release."""
    return Version(release) in {Version(one) for one in releases()}


@dataclass(frozen=True)
class FamilyChoice:
    """The converter for an architecture.

    Attributes:
        family: the converter's family; None if the release has none that makes one engine from the model alone.
        obstacle: the family of a converter that cannot be used, and why; empty if there is none.
        indirect: whether the facts name another architecture, which the release treats as the same.
    """

    family: str | None
    obstacle: str = ""
    indirect: bool = False


@cache  # the same for every target of a plan
def family_for(release: str, architecture: str) -> FamilyChoice:
    """The converter of a release for an architecture. Families in `UNSUPPORTED_FAMILIES` are not chosen."""
    direct = (*_supporting_unnamed(release, architecture), *facts.families_of(release, architecture).value)
    found = direct or _of_the_same_class(release, architecture)
    plain = [family.name for family in found if family.name not in UNSUPPORTED_FAMILIES]
    if plain and (reason := UNSUPPORTED_ARCHITECTURES.get(architecture)):
        return FamilyChoice(None, f"{_nearest_name(plain, architecture)}: {reason}")
    if plain:
        return FamilyChoice(_nearest_name(plain, architecture), indirect=not direct)
    if found:
        return FamilyChoice(None, f"{found[0].name}: {UNSUPPORTED_FAMILIES[found[0].name]}")
    return FamilyChoice(None)


@cache
def first_release(architecture: str) -> str:
    """The first known release with a converter for an architecture; empty for none."""
    having = (one for one in releases() if builds_engines(one) and family_for(one, architecture).family)
    return next(having, "")


def architectures(release: str) -> list[str]:
    """The architectures that a release has a converter for, sorted."""
    served = {name for family in facts.families(release).value.values() for name in family.architectures}
    unnamed = {name for served_since in UNNAMED_SINCE.values() for name in served_since}
    every = served | unnamed | set(facts.architectures(release).value)
    return sorted(name for name in every if family_for(release, name).family)


def table_notes(release: str, model: ModelFacts, precision: Precision) -> Iterator[str]:
    """A note if the release's precision table has the model, but not this precision for it.

    The table is coarse and often out of date, so this is not a finding.
    """
    row = next((name for start, name in TABLE_ROWS.items() if model.architecture.startswith(start)), None)
    if row is None or precision not in TABLE_COLUMNS:
        return
    try:
        named = model_formats(release, row)
    except UsageError:  # the table of an older release has no such model
        return
    if TABLE_COLUMNS[precision] not in named.value:
        of = named.provenance.release
        yield f"the precision table of {of} does not name {precision} for {row}: it may not have been tried there"


def activation_dtype(precision: Precision, model: ModelFacts | None, gpu: Gpu) -> str:
    """The number format of the activations: the precision itself or, for quantized weights, the model's format."""
    if precision in FLOATS:
        return str(precision)
    own = model.dtype if model else ""
    if own == Precision.BFLOAT16 and gpu.supports(Precision.BFLOAT16):
        return own
    return str(Precision.FLOAT16)


def kv_cache(request: Request) -> KvCache:
    """The number format of the KV cache; empty if it is that of the activations."""
    if request.convert.kv_cache != "auto":
        return request.convert.kv_cache
    return "fp8" if request.target.precision in {Precision.FP8, Precision.NVFP4} else ""


def calibrates(request: Request) -> bool:
    """Whether the conversion measures the model with texts. It needs no texts to quantize only the weights."""
    return bool(kv_cache(request)) or request.target.precision not in {*FLOATS, *WEIGHT_ONLY}


def _version_refusal(wanted: str) -> Finding | None:
    first = releases()[0]
    if Version(wanted) < Version(first):
        return _finding("E101", f"{wanted} is older than {first}, the first one known", _use_known())
    if not builds_engines(wanted):
        return _no_engines(wanted)
    if was_never_made(wanted):
        return _finding("E102", f"no release {wanted} of TensorRT-LLM is known, though later ones are", _use_known())
    return None


def _no_engines(wanted: str) -> Finding:
    problem = f"{wanted} builds no TensorRT engines: {ENGINES_UNTIL} is the last release with an engine builder"
    pytorch = "backend: pytorch" if is_version(wanted) else "backend: pytorch with one release"
    return _finding("E103", problem, f"use {pytorch}, or release {_newest(LATEST)} or {ENGINES_UNTIL}")


def _finding(code: str, problem: str, remedy: str) -> Finding:
    return Finding(code, "release", problem, remedy)


def _use_known() -> str:
    return f"use one of {', '.join(stable_releases())}"


@cache
def _newest(wanted: str) -> str:
    return newest_release(wanted, [release for release in releases() if builds_engines(release)])


def _supporting_unnamed(release: str, architecture: str) -> tuple[Family, ...]:
    """The families whose script supports an architecture without naming it (`UNNAMED_SINCE`)."""
    since = {name: served[architecture] for name, served in UNNAMED_SINCE.items() if architecture in served}
    every = facts.families(release).value
    return tuple(every[name] for name, first in since.items() if name in every and Version(release) >= Version(first))


def _of_the_same_class(release: str, architecture: str) -> tuple[Family, ...]:
    """Families of other architectures that have the same model class in the release, as Mistral and Llama have."""
    classes = facts.architectures(release).value
    same = {name for name, made in classes.items() if made == classes.get(architecture)}
    every = facts.families(release).value.values()
    return tuple(family for family in every if same & set(family.architectures))


def _nearest_name(names: list[str], architecture: str) -> str:
    """The longest name that the architecture's name contains, such as `qwen`; else `llama`, else the first name."""
    within = [name for name in names if name in architecture.casefold()]
    return max(within, key=len) if within else "llama" if "llama" in names else names[0]

"""Options that some releases know by another flag (lengths, the KV cache, profiles) or take only in part."""

from collections.abc import Callable, Mapping
from typing import Any

from packaging.version import Version

from enginery.backends.tensorrt.build_flags import as_flag
from enginery.backends.tensorrt.build_terms import NOTHING, Asked, Piece, refused
from enginery.releases.replacements import replacement

PROFILES_VARIABLE = "BUILDER_FORCE_NUM_PROFILES"
MIXTRAL = "MixtralForCausalLM"
ASSERTING = Version("1.3.0rc3")
"""The only release in whose sources the assertions on values were read; of those right before it nothing is known."""


def max_seq_len(asked: Asked, value: int) -> Piece:
    """Up to 0.10, the longest answer is what the longest prompt leaves of it."""
    if asked.flag("max_seq_len"):
        return as_flag(asked, "max_seq_len", value)
    longest = asked.input_length()
    if value > longest:
        return Piece(("--max_output_len", str(value - longest)))
    origin = "" if asked.options.max_input_len else f", the default of {asked.release}"
    problem = f"{value} leaves no token for an answer: max_input_len is {longest}{origin}"
    return refused("E162", "max_seq_len", problem, "set a lower max_input_len or raise max_seq_len")


def max_output_len(asked: Asked, value: int) -> Piece:
    """From 0.11 on, prompt and answer are limited together; with both given it is a contradiction, found elsewhere."""
    if asked.options.max_seq_len is not None:
        return NOTHING
    if asked.flag("max_seq_len"):
        return Piece(("--max_seq_len", str(asked.input_length() + value)))
    return as_flag(asked, "max_output_len", value)


def kv_cache_type(asked: Asked, value: str) -> Piece:
    """Up to 0.12 the cache is paged or not, and cannot be left out."""
    if asked.flag("kv_cache_type"):
        return as_flag(asked, "kv_cache_type", value)
    if value != "disabled":
        return Piece(("--paged_kv_cache", "enable" if value == "paged" else "disable"))
    problem = f"{asked.release} builds no engine without a KV cache: --kv_cache_type came with 0.13.0"
    return refused("E161", "kv_cache_type", problem, "use paged or continuous, or a release from 0.13.0 on")


def builder_force_num_profiles(asked: Asked, value: int) -> Piece:
    """From 0.15 on it is an environment variable."""
    if asked.flag("builder_force_num_profiles") or not replacement(asked.release, "--builder_force_num_profiles").value:
        return as_flag(asked, "builder_force_num_profiles", value)
    return Piece(environment={PROFILES_VARIABLE: str(value)})


def streamingllm(asked: Asked, value: bool) -> Piece:  # noqa: FBT001  it is the field's value
    """The newest known release has the flag and refuses it."""
    if value and _asserts(asked):
        problem = f"{asked.release} has --streamingllm and refuses to enable it"
        return refused("E161", "streamingllm", problem, "leave it out, or build with 1.2.1 or older")
    return as_flag(asked, "streamingllm", value)


def pp_reduce_scatter(asked: Asked, value: bool) -> Piece:  # noqa: FBT001  it is the field's value
    """The newest known release refuses it for all but one architecture."""
    architecture = asked.model.architecture if asked.model else ""
    if value and _asserts(asked) and architecture not in {"", MIXTRAL}:
        problem = f"{asked.release} refuses --pp_reduce_scatter enable for {architecture}: only {MIXTRAL} has it"
        return refused("E161", "pp_reduce_scatter", problem, "leave it out")
    return as_flag(asked, "pp_reduce_scatter", value)


def _asserts(asked: Asked) -> bool:
    return Version(asked.release) >= ASSERTING


TRANSLATIONS: Mapping[str, Callable[[Asked, Any], Piece]] = {
    "max_seq_len": max_seq_len,
    "max_output_len": max_output_len,
    "kv_cache_type": kv_cache_type,
    "builder_force_num_profiles": builder_force_num_profiles,
    "streamingllm": streamingllm,
    "pp_reduce_scatter": pp_reduce_scatter,
}
"""Field -> what it becomes; every other field is the flag of its name."""

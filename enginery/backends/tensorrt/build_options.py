"""The build options of a spec as each release's `trtllm-build` wants them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from packaging.version import Version

from enginery.backends.request import Request
from enginery.backends.tensorrt.build_defaults import (
    ONNXRUNTIME,
    absent,
    contradictions,
    default_changes,
    dtype_findings,
    extra_findings,
    notes_on,
    present,
)
from enginery.backends.tensorrt.build_terms import NOTHING, Asked, Piece, refused, written
from enginery.backends.tensorrt.release import activation_dtype
from enginery.releases import BUILD, Flag, Provenance, builds_engines, flags_of, replacement
from enginery.sources import ModelFacts
from enginery.spec import BuildOptions, Finding

# An option as the flag of the same name: its value in the release's words, or why the release cannot follow it.


def as_flag(asked: Asked, field: str, value: Any) -> Piece:
    """The flag with its value; nothing where that is what the release does without."""
    flag = asked.flag(field)
    if flag is None:
        return _without_flag(asked, field, value)
    if flag.is_switch:
        return Piece((flag.name,)) if value else NOTHING
    words = _words(value)
    if words == ("auto",) and not flag.accepts("auto"):
        words = (asked.dtype,)
    return Piece((flag.name, *words)) if flag.accepts(words) else _not_a_choice(asked, field, value, flag)


def _words(value: Any) -> tuple[str, ...]:
    if isinstance(value, bool):
        return ("enable" if value else "disable",)
    return tuple(map(str, value)) if isinstance(value, tuple) else (str(value),)


def _not_a_choice(asked: Asked, field: str, value: Any, flag: Flag) -> Piece:
    many = value if isinstance(value, tuple) else (value,)
    wrong = ", ".join(written(one) for one in many if not flag.accepts(one))
    choices = ", ".join(map(str, dict.fromkeys(flag.choices)))
    problem = f"{asked.release} does not take {wrong} for {flag.name}, only {choices}"
    return refused("E161", field, problem, "use one of these, or leave it out for this release")


def _without_flag(asked: Asked, field: str, value: Any) -> Piece:
    """Left out where the release does so anyway; else it is refused."""
    does = absent(field, asked.release)
    if does == value:
        return NOTHING
    name = f"--{field}"
    first, last = present(name)
    when = f"came with {first}" if Version(asked.release) < Version(first) else f"went after {last}"
    otherwise = "" if does is None else f", and does as with {written(does)}"
    instead = replacement(asked.release, name).value
    how = f" ({instead.how})" if instead else ""
    problem = f"{asked.release} has no {name}, which {when}{otherwise}{how}"
    remedy = f"leave it out for this release, or build with one from {first} to {last}"
    return refused("E160", field, problem, remedy)


# Options that some releases know by another flag (lengths, the KV cache, profiles) or take only in part.


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


OPTIONS = tuple(name for name in BuildOptions.model_fields if name not in {"extra_args", *ONNXRUNTIME})
"""The fields that are options of `trtllm-build`, in the order in which it is given them."""


@dataclass(frozen=True)
class RenderedBuild:
    """What a release's `trtllm-build` is told besides where the checkpoint and the engine lie.

    Attributes:
        flags: its arguments.
        findings: why it cannot be told so: E160 no such flag, E161 no such value, E162 a contradiction, E163
            `extra_args`, E164 and W164 a plugin's data type. With an error among them the arguments are not complete.
        notes: the release's defaults for what is left out and matters.
        environment: its environment variables.
        provenance: how the release's flags are known.
    """

    flags: tuple[str, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    provenance: Provenance
    environment: Mapping[str, str] = field(default_factory=dict)


def render_build(
    options: BuildOptions, release: str, *, dtype: str = "", model: ModelFacts | None = None, ranks: int = 1
) -> RenderedBuild:
    """Render the options for a release.

    Args:
        options: what the spec says; what it leaves out is not passed.
        release: the release.
        dtype: the number format of the activations, such as `bfloat16`, which `auto` means up to 0.10.
        model: the model's shape, where it is known.
        ranks: how many GPUs share the engine.

    Raises:
        UsageError: nothing is known of so old a release.
    """
    known = flags_of(release)
    if not builds_engines(release):
        gone = Finding("E160", "release", f"{release} has no {BUILD}", "use an older release or the backend pytorch")
        return RenderedBuild((), (gone,), (), known.provenance)
    asked = Asked(options, release, known.value, dtype, model, ranks)
    pieces = [render_option(asked, name) for name in OPTIONS]
    found = [finding for piece in pieces for finding in piece.findings]
    told = {finding.path for finding in found}
    found += [one for one in contradictions(asked) if one.path not in told]
    found += [*extra_findings(asked), *dtype_findings(asked)]
    argv = (*(word for piece in pieces for word in piece.argv), *options.extra_args)
    environment = {name: value for piece in pieces for name, value in piece.environment.items()}
    return RenderedBuild(argv, tuple(found), tuple(notes_on(asked)), known.provenance, environment)


def unset_changes(options: BuildOptions, old_release: str, new_release: str) -> tuple[str, ...]:
    """What the fields that are left out mean in another release, such as `max_batch_size: 1 -> 2048`.

    Empty where one of the two builds no engines.

    Raises:
        UsageError: nothing is known of so old a release.
    """
    before, after = (Asked(options, release, flags_of(release).value) for release in (old_release, new_release))
    return tuple(default_changes(before, after)) if before.flags and after.flags else ()


def render_option(asked: Asked, name: str) -> Piece:
    """What one field becomes; nothing where it is left out."""
    value = getattr(asked.options, name)
    if value is None:
        return NOTHING
    translate = TRANSLATIONS.get(name)
    return translate(asked, value) if translate else as_flag(asked, name, value)


# A target's build options as its release's `trtllm-build` wants them.


def rendered(request: Request, release: str) -> RenderedBuild:
    """Render them, with all that is known of the model and the precision."""
    dtype = activation_dtype(request.target.precision, request.model, request.gpu)
    return render_build(request.build, release, dtype=dtype, model=request.model, ranks=request.world_size)

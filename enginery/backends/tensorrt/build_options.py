"""Turns the build options of a spec into arguments for a release's `trtllm-build`.

Most options become the flag of the same name. For some options a release has another flag (lengths, the KV cache),
accepts only some values, or has no flag because it always behaves in the same way.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from packaging.version import Version

from enginery.backends.request import Request
from enginery.backends.tensorrt.build_checks import contradictions, dtype_findings, extra_findings
from enginery.backends.tensorrt.build_defaults import (
    ONNXRUNTIME,
    EngineOptions,
    in_yaml,
    notes_on,
    releases_with_flag,
    value_without_flag,
)
from enginery.backends.tensorrt.refusals.applied import change_notes, refusal_findings
from enginery.backends.tensorrt.release import activation_dtype, kv_cache
from enginery.releases import BUILD, Flag, builds_engines, replacement
from enginery.spec import BuildOptions, Finding

OPTIONS = tuple(name for name in BuildOptions.model_fields if name not in {"extra_args", *ONNXRUNTIME})
"""The fields that are options of `trtllm-build`, in their order on the command line."""

PROFILES_VARIABLE = "BUILDER_FORCE_NUM_PROFILES"


class RenderedOption(NamedTuple):
    """What one option becomes: arguments and environment variables, or findings if the release does not accept it."""

    argv: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    environment: Mapping[str, str] = MappingProxyType({})


NOTHING = RenderedOption()
"""For an option that needs no argument in a release."""


@dataclass(frozen=True)
class RenderedBuild:
    """The arguments of a release's `trtllm-build`, apart from the paths of the checkpoint and the engine.

    Attributes:
        findings: options that the release does not accept: E160 no such flag, E161 no such value, E162 a contradiction,
            E163 `extra_args`, E164 and W164 a plugin's data type, E165 to E168 and W166 what the release refuses in
            its code. If one is an error, the arguments are not complete.
        notes: the release's defaults for important options that the spec leaves out, and what it changes by itself.
    """

    flags: tuple[str, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def render_build(engine: EngineOptions) -> RenderedBuild:
    """Render the options for a release. An option that the spec leaves out gives no argument.

    Raises:
        UsageError: when the release is so old that nothing is known of it.
    """
    if not builds_engines(engine.release):
        problem = f"{engine.release} has no {BUILD}"
        gone = Finding("E160", "release", problem, "use an older release or the backend pytorch")
        return RenderedBuild((), (gone,), ())
    rendered_options = [render_option(engine, name) for name in OPTIONS]
    found = [finding for option in rendered_options for finding in option.findings]
    paths = {finding.path for finding in found}
    found += [one for one in contradictions(engine) if one.path not in paths]
    found += [*extra_findings(engine), *dtype_findings(engine)]
    paths = {finding.path for finding in found if finding.level == "error"}
    found += [one for one in refusal_findings(engine) if one.path not in paths]
    argv = (*(word for option in rendered_options for word in option.argv), *engine.options.extra_args)
    environment = {name: value for option in rendered_options for name, value in option.environment.items()}
    return RenderedBuild(argv, tuple(found), (*notes_on(engine), *change_notes(engine)), environment)


def rendered(request: Request, release: str) -> RenderedBuild:
    """Render a target's options, with all that is known of its model and precision."""
    dtype = activation_dtype(request.target.precision, request.model, request.gpu)
    target = request.target
    engine = EngineOptions(
        request.build,
        release,
        dtype,
        request.model,
        request.world_size,
        str(target.precision),
        kv_cache(request),
        target.tensor_parallel,
        target.pipeline_parallel,
        request.gpu,
    )
    return render_build(engine)


def render_option(engine: EngineOptions, name: str) -> RenderedOption:
    """What one field becomes; nothing if the spec leaves it out."""
    value = getattr(engine.options, name)
    if value is None:
        return NOTHING
    translate = TRANSLATIONS.get(name)
    return translate(engine, value) if translate else _as_flag(engine, name, value)


def _as_flag(engine: EngineOptions, field: str, value: Any) -> RenderedOption:
    """The flag of the same name with its value, or why the release does not take it."""
    flag = engine.flag(field)
    if flag is None:
        return _without_flag(engine, field, value)
    if flag.is_switch:
        return RenderedOption((flag.name,)) if value else NOTHING
    words = _words(value)
    if words == ("auto",) and not flag.accepts("auto"):
        words = (engine.dtype,)
    return RenderedOption((flag.name, *words)) if flag.accepts(words) else _not_a_choice(engine, field, value, flag)


def _words(value: Any) -> tuple[str, ...]:
    if isinstance(value, bool):
        return ("enable" if value else "disable",)
    return tuple(map(str, value)) if isinstance(value, tuple) else (str(value),)


def _not_a_choice(engine: EngineOptions, field: str, value: Any, flag: Flag) -> RenderedOption:
    many = value if isinstance(value, tuple) else (value,)
    wrong = ", ".join(in_yaml(one) for one in many if not flag.accepts(one))
    choices = ", ".join(map(str, dict.fromkeys(flag.choices)))
    problem = f"{engine.release} does not take {wrong} for {flag.name}, only {choices}"
    return _refused("E161", field, problem, "use one of these, or leave it out for this release")


def _without_flag(engine: EngineOptions, field: str, value: Any) -> RenderedOption:
    """Nothing if the release always behaves as the option says, so it needs no flag for that; else a finding."""
    does = value_without_flag(field, engine.release)
    if does == value:
        return NOTHING
    name = f"--{field}"
    first, last = releases_with_flag(name)
    when = f"came with {first}" if Version(engine.release) < Version(first) else f"went after {last}"
    otherwise = "" if does is None else f", and does as with {in_yaml(does)}"
    instead = replacement(engine.release, name).value
    how = f" ({instead.how})" if instead else ""
    problem = f"{engine.release} has no {name}, which {when}{otherwise}{how}"
    remedy = f"leave it out for this release, or build with one from {first} to {last}"
    return _refused("E160", field, problem, remedy)


def _refused(code: str, field: str, problem: str, remedy: str) -> RenderedOption:
    return RenderedOption(findings=(Finding(code, f"build.{field}", problem, remedy),))


def _max_seq_len(engine: EngineOptions, value: int) -> RenderedOption:
    """Up to 0.10 prompt and answer have a limit each. The answer's limit is the rest that the prompt's limit leaves."""
    if engine.flag("max_seq_len"):
        return _as_flag(engine, "max_seq_len", value)
    longest = engine.input_length()
    if value > longest:
        return RenderedOption(("--max_output_len", str(value - longest)))
    origin = "" if engine.options.max_input_len else f", the default of {engine.release}"
    problem = f"{value} leaves no token for an answer: max_input_len is {longest}{origin}"
    return _refused("E162", "max_seq_len", problem, "set a lower max_input_len or raise max_seq_len")


def _max_output_len(engine: EngineOptions, value: int) -> RenderedOption:
    """From 0.11 on there is one limit for prompt and answer together. `contradictions` finds specs that set both."""
    if engine.options.max_seq_len is not None:
        return NOTHING
    if engine.flag("max_seq_len"):
        return RenderedOption(("--max_seq_len", str(engine.input_length() + value)))
    return _as_flag(engine, "max_output_len", value)


def _kv_cache_type(engine: EngineOptions, value: str) -> RenderedOption:
    """Up to 0.12 every engine has a KV cache, and a flag says whether it is paged."""
    if engine.flag("kv_cache_type"):
        return _as_flag(engine, "kv_cache_type", value)
    if value != "disabled":
        return RenderedOption(("--paged_kv_cache", "enable" if value == "paged" else "disable"))
    problem = f"{engine.release} builds no engine without a KV cache: --kv_cache_type came with 0.13.0"
    return _refused("E161", "kv_cache_type", problem, "use paged or continuous, or a release from 0.13.0 on")


def _builder_force_num_profiles(engine: EngineOptions, value: int) -> RenderedOption:
    """From 0.15 on this option is an environment variable."""
    if (
        engine.flag("builder_force_num_profiles")
        or not replacement(engine.release, "--builder_force_num_profiles").value
    ):
        return _as_flag(engine, "builder_force_num_profiles", value)
    return RenderedOption(environment={PROFILES_VARIABLE: str(value)})


TRANSLATIONS: Mapping[str, Callable[[EngineOptions, Any], RenderedOption]] = {
    "max_seq_len": _max_seq_len,
    "max_output_len": _max_output_len,
    "kv_cache_type": _kv_cache_type,
    "builder_force_num_profiles": _builder_force_num_profiles,
}
"""Field -> the function that renders it. Every other field becomes the flag of the same name."""

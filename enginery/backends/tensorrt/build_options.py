"""The build options of a spec as each release's `trtllm-build` wants them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from enginery.backends.tensorrt.build_contradictions import contradictions
from enginery.backends.tensorrt.build_defaults import ONNXRUNTIME, default_changes, notes_on
from enginery.backends.tensorrt.build_dtypes import dtype_findings
from enginery.backends.tensorrt.build_extra import extra_findings
from enginery.backends.tensorrt.build_flags import as_flag
from enginery.backends.tensorrt.build_terms import NOTHING, Asked, Piece
from enginery.backends.tensorrt.translations import TRANSLATIONS
from enginery.findings import Finding
from enginery.model_facts import ModelFacts
from enginery.releases.flags import BUILD, flags
from enginery.releases.known import builds_engines
from enginery.releases.provenance import Provenance
from enginery.spec import BuildOptions

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
    known = flags(release)
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
    before, after = (Asked(options, release, flags(release).value) for release in (old_release, new_release))
    return tuple(default_changes(before, after)) if before.flags and after.flags else ()


def render_option(asked: Asked, name: str) -> Piece:
    """What one field becomes; nothing where it is left out."""
    value = getattr(asked.options, name)
    if value is None:
        return NOTHING
    translate = TRANSLATIONS.get(name)
    return translate(asked, value) if translate else as_flag(asked, name, value)

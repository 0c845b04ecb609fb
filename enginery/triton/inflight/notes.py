"""What the reader of a plan should know of how an engine will be served."""

from collections.abc import Iterator

from packaging.version import Version

from enginery.releases.known import builds_engines
from enginery.releases.provenance import Certainty
from enginery.releases.templates import template
from enginery.spec import ServingOptions
from enginery.triton.inflight.values import DEFAULTS, OF_RELEASE, text

SPECIAL_TOKENS = "add_special_tokens"


def serving_notes(serving: ServingOptions, release: str) -> list[str]:
    """What was decided for the user, and what is not known of the release.

    Args:
        serving: what the spec says.
        release: of TensorRT-LLM.

    Raises:
        UsageError: when the release is not a version, or older than all that is known.
    """
    if not builds_engines(release):
        return []
    return [*_templates(release), *_defaults(serving, release), *_special_tokens(serving, release)]


def _templates(release: str) -> Iterator[str]:
    provenance = template(release, "tensorrt_llm").provenance
    if provenance.certainty is Certainty.NEAREST:
        yield f"serving: Triton's templates of {provenance.release} are filled: {provenance.note}"


def _defaults(serving: ServingOptions, release: str) -> Iterator[str]:
    if serving.max_batch_size is None:
        yield f"serving.max_batch_size is {DEFAULTS['max_batch_size']}, as in NVIDIA's getting-started article"
    for known, fields in OF_RELEASE.items():
        if Version(known) == Version(release):
            own = [f"{name} {text(value)}" for name, value in fields.items() if getattr(serving, name) is None]
            if own:
                yield f"serving: {', '.join(own)}, as in NVIDIA's getting-started article for {known}"


def _special_tokens(serving: ServingOptions, release: str) -> Iterator[str]:
    """A template may say that a prompt gets no special tokens, which is not how an engine is validated."""
    known = template(release, "preprocessing").value
    if serving.add_special_tokens is None and known and known.parameters.get(SPECIAL_TOKENS) == "False":
        yield (
            f"serving.{SPECIAL_TOKENS} is false, as the template of {release} has it, while validation adds special"
            " tokens: served answers may differ from the recorded ones, unless it is set to true"
        )

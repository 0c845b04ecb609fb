"""Which models the PyTorch backend of a release runs, and findings for the others."""

from collections.abc import Iterator

from packaging.version import Version

from enginery.backends.model_kinds import kind_finding, unnamed
from enginery.backends.request import Request
from enginery.models import ModelFacts, ModelKind
from enginery.releases import pytorch_architectures, releases_read
from enginery.spec import Finding, warning


def model_findings(request: Request, release: str) -> Iterator[Finding]:
    """Findings if the release's PyTorch backend cannot run this model; none if the model is not known.

    If the release itself was not read, an architecture that the nearest known release lacks is only a warning.
    """
    model = request.model
    if model is None or not (model.architecture or model.model_type):  # a source without both is refused
        return
    known = pytorch_architectures(release)
    listed = model.architecture in known.value
    both_parts = model.kind is ModelKind.ENCODER_DECODER and (listed or _is_listed_later(model, release))
    if finding := kind_finding(model, "pytorch", "" if both_parts else f"{release} runs decoders alone"):
        yield finding
    elif not model.architecture:
        yield unnamed("E196", "the release chooses its code by it", model, known.value)
    elif not listed and Version(known.provenance.release) == Version(release):
        problem = f"the PyTorch backend of {release} does not run {model.architecture}"
        yield Finding("E196", "backend", problem, "use another model, release or backend")
    elif not listed or both_parts:
        yield _uncertain(model, release, known.provenance.release, listed=listed)


def _is_listed_later(model: ModelFacts, release: str) -> bool:
    """Whether the release is later than those that were read, but for the newest one, which runs the architecture."""
    *earlier, newest = releases_read("pytorch", "architectures")
    later = all(Version(release) > Version(one) for one in earlier)
    return later and model.architecture in pytorch_architectures(newest).value


def _uncertain(model: ModelFacts, release: str, read: str, *, listed: bool) -> Finding:
    if listed:
        problem = f"{model.architecture} is {model.kind}, which Enginery has never tried with this backend"
    else:
        problem = f"whether {release} runs {model.architecture} is not known; {read} does not"
    return warning("W195", "backend", problem, "use another model, release or backend")

"""What a reader of the plan should know: what was decided for them, and what is known less surely."""

from collections.abc import Iterator

from enginery.backends.choosing import choice_notes
from enginery.backends.modelopt import MODELOPT
from enginery.backends.request import Request
from enginery.backends.tensorrt.converters import conversion
from enginery.backends.tensorrt.family_choice import family_for
from enginery.backends.tensorrt.model_precisions import table_remark
from enginery.backends.tensorrt.precision_terms import FLOATS, activation_dtype, calibrates
from enginery.backends.tensorrt.release_choice import is_known
from enginery.backends.tensorrt.rendering import rendered
from enginery.backends.tensorrt.script_arguments import Script
from enginery.release_examples import SETTING, checkout_examples
from enginery.releases.flags import flags
from enginery.releases.precisions import capabilities
from enginery.releases.provenance import Certainty, Provenance
from enginery.spec import BackendName
from enginery.triton.inflight import serving_notes
from enginery.versions import is_version


def remarks(request: Request, release: str) -> Iterator[str]:
    """All of them for one target."""
    yield from _choices(request, release)
    yield from _certainty(request, release)
    yield from _conversion(request, release)
    if request.model is not None:
        yield from table_remark(release, request.model, request.target.precision)
    yield from _examples(request)
    yield from rendered(request, release).notes
    yield from serving_notes(request.serving, release)
    yield from (f"llm.{name} is ignored: it is for backend pytorch" for name in request.llm)
    if not request.validation.prompts:
        yield "no validation prompts: nothing checks what this engine says"


def _choices(request: Request, release: str) -> Iterator[str]:
    yield from choice_notes(request, BackendName.TENSORRT)
    if not is_version(request.target.release):
        yield f"release {request.target.release} is {release}, the newest one known that builds engines and fits"


def _certainty(request: Request, release: str) -> Iterator[str]:
    if not is_known(release):
        yield from _nearest(f"flags of {release}'s trtllm-build", flags(release).provenance)
    yield from _nearest(f"GPUs and precisions of {release}", capabilities(release).provenance)
    if request.model is None:
        yield "the model is not known: what depends on its shape was not checked"
    elif family_for(release, request.model.architecture).indirect:
        yield f"{request.model.architecture} goes through the converter of a model that {release} treats as the same"


def _nearest(what: str, provenance: Provenance) -> Iterator[str]:
    if provenance.certainty is Certainty.NEAREST:
        yield f"{what}: {provenance.note}"


def _conversion(request: Request, release: str) -> Iterator[str]:
    if request.target.precision not in FLOATS:
        dtype = activation_dtype(request.target.precision, request.model, request.gpu)
        yield f"{request.target.precision} weights are computed with in {dtype}"
    if not calibrates(request):
        asked = request.convert.calibration.model_dump(exclude_none=True)
        yield from (f"convert.calibration.{field} is ignored: {request.target.precision} needs none" for field in asked)
    elif request.convert.calibration.dataset is None:
        yield f"calibrated with {_default_texts(request, release)}"
    if request.convert.converter == MODELOPT:
        yield f"the checkpoint is made by ModelOpt, not by the scripts of {release}"
    elif script := _script(request, release):
        yield from _nearest(f"flags of {script.short_title}", script.known.provenance)


def _examples(request: Request) -> Iterator[str]:
    """Where the release's scripts are to come from, where nobody has said so."""
    of_release = request.convert.converter != MODELOPT or request.validation.run_script
    if not of_release or request.target.toolchain == "container":
        return
    place = checkout_examples(request.convert.examples or "")
    if place is None:
        yield f"the release's examples are needed where this runs: name a checkout's in {SETTING} or convert.examples"
    elif not place.is_dir():
        yield f"there is no {place} on this machine: the release's examples must be there where this runs"


def _default_texts(request: Request, release: str) -> str:
    if request.convert.converter == MODELOPT:
        return "a few built-in texts: enough to try it, too few to judge the answers by"
    script = _script(request, release)
    flag = script.find("--calib_dataset") if script else None
    name = f" {flag.default}" if flag and flag.default else ""
    return f"the converter's own data set{name}, which it takes from the Hugging Face Hub"


def _script(request: Request, release: str) -> Script | None:
    family = family_for(release, request.model.architecture).family if request.model else None
    return conversion(request, release, family).script if family else None

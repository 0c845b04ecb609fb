"""What a plan tells of a target for the PyTorch backend: choices, ignored settings, and how sure the facts are."""

from collections.abc import Iterator

from enginery.backends.choosing import choice_notes
from enginery.backends.pytorch.arguments import TRITON, arguments_of, max_batch_size
from enginery.backends.pytorch.findings import without_meaning
from enginery.backends.pytorch.graphs import GRAPHS, warm_up_sizes
from enginery.backends.pytorch.keys import is_certain, keys
from enginery.backends.pytorch.older import Layout, layout
from enginery.backends.pytorch.quantizing import QUANTIZED, device, must_quantize, said_algorithm
from enginery.backends.pytorch.sources import BY_HAND, FROM_SERVING, SERVED
from enginery.backends.request import Request
from enginery.spec import BackendName
from enginery.spec_serving import DEFAULT_BATCH
from enginery.triton.llmapi.autotuner import keeps_measurements
from enginery.versions import is_version


def notes(request: Request, release: str) -> Iterator[str]:
    """One sentence each."""
    yield from _choices(request, release)
    yield from _conversion(request)
    yield from _first_use(request, release)
    if request.spec.rollout_target() == request.target:
        fraction = "serving.kv_cache_free_gpu_mem_fraction"
        yield f"a rollout loads the new model beside the old one, which frees its GPU memory after that: see {fraction}"
    yield from _ignored(request)


def _choices(request: Request, release: str) -> Iterator[str]:
    yield from choice_notes(request, BackendName.PYTORCH)
    if not is_version(request.target.release):
        yield f"release {request.target.release} is {release}"
    if not is_certain(release):
        yield f"llm is checked against facts of another release: {keys(release).provenance.note}"
    if "max_batch_size" not in request.serving.model_fields_set and max_batch_size(request) == DEFAULT_BATCH:
        yield f"max_batch_size is {DEFAULT_BATCH}, as for TensorRT engines; the release's own default is higher"


def _conversion(request: Request) -> Iterator[str]:
    model, precision = request.model, request.target.precision
    if must_quantize(precision, model):
        yield f"ModelOpt quantizes the weights to {precision}, on the {device(request)} device"
    elif precision in QUANTIZED and model and model.quantization:
        yield f"the source is quantized already ({said_algorithm(model.quantization)}) and is used as it is"


def _first_use(request: Request, release: str) -> Iterator[str]:
    """What the server does before the first request, so that nobody waits for it."""
    graphs = arguments_of(request, release).get(GRAPHS)
    captured = graphs.get("batch_sizes") if isinstance(graphs, dict) else None
    if isinstance(graphs, dict) and isinstance(captured, list):
        others = "are filled up to the next" if graphs.get("enable_padding") else "run without"
        sizes = ", ".join(map(str, captured))
        yield f"CUDA graphs are captured at the start for batches of {sizes}; others {others}"
    config = request.llm.get(TRITON)
    warm = warm_up_sizes(config if isinstance(config, dict) else {}, max_batch_size(request))
    if warm:
        yield f"the server warms up with batches of {', '.join(map(str, warm))} (llm.{TRITON}.warm_up: false: not)"
    if layout(release) is Layout.OBJECTS and request.llm.get("enable_autotuner") is not False:
        kept = "; launch.md says how to keep what it found" if keeps_measurements(release) else ""
        yield f"the autotuner measures kernels at each start (enable_autotuner, the release's default){kept}"


def _ignored(request: Request) -> Iterator[str]:
    own = request.target.build.model_fields_set if request.target.build else set()
    for field in without_meaning(request.spec.build):
        if field not in own and field not in BY_HAND:
            yield f"build.{field} is ignored: there is no engine to build"
    serving = request.serving
    meant = {*FROM_SERVING, *SERVED}
    for field in sorted(serving.model_fields_set - meant):
        if getattr(serving, field) is not None:
            yield f"serving.{field} is ignored: it is not for the LLM API"

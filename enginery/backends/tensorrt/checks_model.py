"""Whether the release knows the model, and whether it can be split as asked.

Vocabulary: not checked, since the converters pad it to a multiple of the GPUs.
"""

import difflib
from collections.abc import Iterable, Iterator

from enginery.backends.pytorch.quantizing import quantized_to
from enginery.backends.pytorch.release_choice import instead
from enginery.backends.request import Request
from enginery.backends.tensorrt.family_choice import FamilyChoice, architectures, family_for, first_release
from enginery.findings import Finding
from enginery.model_facts import ModelFacts

NEAR = 3
SIMILAR = 0.8


def model_findings(request: Request, release: str) -> Iterator[Finding]:
    """What keeps the release from converting this model; nothing where its shape is not known."""
    model = request.model
    if model is None:
        return
    choice = family_for(release, model.architecture)
    if choice.family is None:
        yield _unknown(model, release, choice)
    if model.quantization:
        how = model.quantization.get("quant_method") or "somehow"
        problem = f"the source is quantized already ({how}); {request.target.precision} is made of plain weights"
        found = quantized_to(model.quantization)
        otherwise = f", or {instead(release)}, and precision: {found}" if found else "; no backend reads this one"
        yield Finding("E123", "precision", problem, f"use the plain model{otherwise}")
    yield from _split_findings(request, model)


def _unknown(model: ModelFacts, release: str, choice: FamilyChoice) -> Finding:
    if choice.obstacle:
        problem = f"{release} makes {model.architecture} with its converter {choice.obstacle}"
        return Finding("E131", "release", problem, f"use {instead(release)}")
    named = model.architecture or "a model that does not say its architecture"
    problem = f"{release} has no converter for {named}"
    first = first_release(model.architecture)
    if first:
        remedy = f"release {first} has one: use that or a later one, or {instead(release)}"
        return Finding("E130", "release", problem, remedy)
    near = difflib.get_close_matches(model.architecture, architectures(release), n=NEAR, cutoff=SIMILAR)
    like = f"; those like it are {', '.join(near)}" if near else ""
    return Finding("E130", "release", f"{problem}{like}", f"no known release has one: use {instead(release)}")


def _split_findings(request: Request, model: ModelFacts) -> Iterator[Finding]:
    tensor, pipeline = request.target.tensor_parallel, request.target.pipeline_parallel
    instead = _one_of(gpus for gpus in range(1, 2 * tensor + 1) if not list(_tensor_problems(model, gpus)))
    for code, problem in _tensor_problems(model, tensor):
        yield Finding(code, "tensor_parallel", problem, instead)
    if model.layers % pipeline:
        problem = f"{model.layers} layers are not split evenly over {pipeline} GPUs"
        remedy = _one_of(gpus for gpus in range(1, 2 * pipeline + 1) if model.layers % gpus == 0)
        yield Finding("E143", "pipeline_parallel", problem, remedy)


def _tensor_problems(model: ModelFacts, gpus: int) -> Iterator[tuple[str, str]]:
    if model.heads % gpus:
        yield "E140", f"{model.heads} attention heads cannot be split evenly over {gpus} GPUs"
    if model.kv_heads and model.kv_heads % gpus and gpus % model.kv_heads:
        yield "E141", f"{model.kv_heads} key-value heads are neither split evenly nor copied evenly to {gpus} GPUs"
    if model.intermediate_size % gpus:
        yield "E142", f"an intermediate size of {model.intermediate_size} cannot be split evenly over {gpus} GPUs"


def _one_of(numbers: Iterable[int]) -> str:
    return f"use one of {', '.join(map(str, numbers))}"

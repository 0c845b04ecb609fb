"""The command that makes a target's checkpoint with NVIDIA ModelOpt, in a toolchain of its own, and what it refuses.

It asks nothing of the release: ModelOpt writes the checkpoint that `trtllm-build` reads.
"""

from collections.abc import Iterator

from enginery.backends.modelopt import BLOCKS, DRIVER
from enginery.backends.request import Request
from enginery.backends.tensorrt.calibration import dataset_argument, is_path
from enginery.backends.tensorrt.precision_terms import FLOATS, activation_dtype, calibrates, kv_cache
from enginery.findings import Finding
from enginery.model_facts import ModelFacts
from enginery.spec import Precision

FAMILIES = ("GPT2", "GPTBigCode", "Gemma", "Llama", "Mistral", "Mixtral", "QWen", "Qwen2", "MPT", "Dbrx")
"""How the architectures begin that ModelOpt writes a `config.json` of TensorRT-LLM's for."""
AWQ_VOCABULARY = 64
OTHERWISE = "use convert.converter: release"


def modelopt_device(request: Request) -> str:
    """Where it works: on a GPU, unless nothing is calibrated or the spec says otherwise."""
    return request.convert.device or ("cuda" if calibrates(request) else "cpu")


def modelopt_argv(request: Request) -> tuple[str, ...]:
    """The command."""
    return ("{python}", f"{{drivers}}/{DRIVER.name}", *(part for pair in _arguments(request) for part in pair))


def _arguments(request: Request) -> Iterator[tuple[str, str]]:
    target, asked = request.target, request.convert.calibration
    yield "--model_dir", "{weights}"
    yield "--output_dir", "{output}"
    yield "--dtype", activation_dtype(target.precision, request.model, request.gpu)
    yield "--qformat", "full_prec" if target.precision in FLOATS else str(target.precision)
    if kv_cache(request):
        yield "--kv_cache_dtype", kv_cache(request)
    if target.tensor_parallel > 1:
        yield "--tp_size", str(target.tensor_parallel)
    if target.pipeline_parallel > 1:
        yield "--pp_size", str(target.pipeline_parallel)
    if calibrates(request):
        if asked.dataset is not None:
            yield "--calib_dataset", dataset_argument(asked.dataset)
        named = {"size": "size", "max_length": "max_length", "batch_size": "batch_size"}
        for field, name in named.items():
            if (value := getattr(asked, field)) is not None:
                yield f"--calib_{name}", str(value)
        if asked.seed is not None:
            yield "--seed", str(asked.seed)
    yield "--device", modelopt_device(request)


def modelopt_findings(request: Request) -> Iterator[Finding]:
    """What it would refuse, or write so that the engine is wrong."""
    if request.target.precision is Precision.FLOAT32:
        problem = "ModelOpt writes float32 as float16 for TensorRT-LLM"
        yield Finding("E122", "precision", problem, f"use bfloat16 or float16, or {OTHERWISE.removeprefix('use ')}")
    if request.convert.extra_args:
        yield Finding("E122", "convert.extra_args", "with ModelOpt there are no more arguments", "remove them")
    dataset = request.convert.calibration.dataset
    if calibrates(request) and dataset is not None and not is_path(dataset):
        problem = f"ModelOpt runs without the network and knows no data set {dataset!r}"
        yield Finding("E156", "convert.calibration.dataset", problem, "give a .jsonl or .txt file of texts")
    if request.model is not None:
        yield from _model_findings(request, request.model)


def _model_findings(request: Request, model: ModelFacts) -> Iterator[Finding]:
    architecture, target = model.architecture, request.target
    if not architecture.startswith(FAMILIES):
        yield _refused("convert.converter", f"ModelOpt writes no TensorRT-LLM checkpoint of {architecture}")
    if architecture.startswith("Gemma") and target.pipeline_parallel > 1:
        yield _refused("pipeline_parallel", f"ModelOpt leaves the last layer of {architecture} out with more than 1")
    if target.precision in {Precision.INT4_AWQ, Precision.W4A8_AWQ} and model.vocab_size % AWQ_VOCABULARY:
        problem = (
            f"for {target.precision} ModelOpt fills {model.vocab_size} tokens up to a multiple of {AWQ_VOCABULARY}"
        )
        yield _refused("precision", f"{problem} with some that mean nothing")
    yield from _block_findings(request, model)


def _block_findings(request: Request, model: ModelFacts) -> Iterator[Finding]:
    precision, gpus = request.target.precision, request.target.tensor_parallel
    block = BLOCKS.get(precision, 1)
    rows = {
        "hidden": model.hidden_size,
        "attention": model.heads * model.head_size,
        "intermediate": model.intermediate_size,
    }
    for name, size in rows.items():
        if block > 1 and size % (block * gpus):
            problem = f"the {name} size {size} over {gpus} GPUs is no multiple of {block}, the block of {precision}"
            yield Finding("E144", "tensor_parallel", problem, "use fewer GPUs, or another precision")


def _refused(path: str, problem: str) -> Finding:
    return Finding("E122", path, problem, OTHERWISE)

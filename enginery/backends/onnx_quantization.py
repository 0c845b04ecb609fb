"""How ONNX Runtime GenAI's builder makes int4: its algorithms, what each asks of a model, and the default.

The builder ignores an option whose name it does not know, so the options are recorded by release. A test compares them
with the installed builder. The default was chosen by measurement on a real model: see docs/build.md.
"""

from collections.abc import Iterator, Mapping

from enginery.backends.request import Request
from enginery.models import ModelFacts
from enginery.spec import Finding, Precision, warning

MIXED = "matmul_mixed_precision=last_matmul:int8,mixed_layers:int8"
"""Keep 8 bits in the last matrix, and in the matrices that suffer most in the first, the last and every third layer."""

ALGORITHMS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "0.18.0": {
        "default": ("algo_config=default",),
        "rtn": ("algo_config=rtn",),
        "rtn_last": ("algo_config=rtn_last",),
        "rtn_mixed": ("algo_config=rtn", MIXED),
        "k_quant": ("algo_config=k_quant",),
        "k_quant_last": ("algo_config=k_quant_last",),
        "k_quant_mixed": ("algo_config=k_quant_mixed",),
        "k_quant_linear": ("algo_config=k_quant_linear",),
    }
}
"""Release -> name in the spec -> the builder's extra options. `rtn_mixed` is our name for a pair of options."""

BEST = "k_quant_mixed"
SECOND = "rtn_mixed"
"""For models that the k_quant algorithms cannot quantize."""

TRIED = frozenset(
    {
        "Ernie4_5ForCausalLM",
        "GemmaForCausalLM",
        "Gemma2ForCausalLM",
        "GraniteForCausalLM",
        "HunYuanDenseV1ForCausalLM",
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "OlmoForCausalLM",
        "Phi3ForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "SmolLM3ForCausalLM",
    }
)
"""Architectures of which small models with random weights were built with `BEST` and `SECOND`, and answered."""

BLOCK_SIZE = 32
"""The builder's default."""


def algorithm(request: Request, release: str) -> str | None:
    """The algorithm for this target; None leaves it to the builder."""
    if request.build.int4_algorithm is not None:
        return request.build.int4_algorithm
    model = request.model
    if release not in ALGORITHMS or (model is not None and (model.quantization or model.architecture not in TRIED)):
        return None
    return SECOND if odd_widths(request) else BEST


def algorithm_options(request: Request, release: str) -> tuple[str, ...]:
    """The builder's extra options for the algorithm."""
    name = algorithm(request, release)
    return () if name is None else ALGORITHMS.get(release, {}).get(name, (f"algo_config={name}",))


def algorithm_note(request: Request, release: str) -> str:
    """What was chosen for the user, and why."""
    chosen = algorithm(request, release)
    if chosen == BEST:
        return f"int4_algorithm is {BEST}: of those that need no more than a third more bytes, it is nearest to float32"
    if chosen == SECOND:
        return f"int4_algorithm is {SECOND}, since k_quant_mixed {_odd(request)}"
    if request.model is not None and request.model.quantization:
        return "int4_algorithm has no effect, since the weights are quantized already"
    about = request.model.architecture if release in ALGORITHMS and request.model else f"release {release}"
    return f"int4_algorithm is the builder's default, since {BEST} was not tried with {about}"


def algorithm_findings(request: Request, release: str) -> Iterator[Finding]:
    """Findings if the chosen algorithm is unknown, cannot quantize this model, or has no effect on it."""
    name, model, path = request.build.int4_algorithm, request.model, "build.int4_algorithm"
    if name is None or request.target.precision is not Precision.INT4:
        return
    known = ALGORITHMS.get(release, ALGORITHMS[max(ALGORITHMS)])
    if name not in known and release in ALGORITHMS:
        problem = f"the builder of {release} has no algorithm {name}"
        yield Finding("E320", path, problem, f"use one of {', '.join(known)}")
    elif release not in ALGORITHMS:
        problem = f"the algorithms of release {release} are not recorded, and its builder may ignore {name}"
        yield warning("W320", path, problem, f"leave it out, or use a release that was read: {', '.join(ALGORITHMS)}")
    elif model is not None and model.quantization:
        yield Finding("E321", path, "the weights are quantized already, and stay as they are", "leave it out")
    elif name.startswith("k_quant") and odd_widths(request):
        yield Finding("E322", path, f"{name} {_odd(request)}", f"use {SECOND}, or another int4_block_size")
    elif name == "k_quant_linear" and model is not None and "linear_attention" not in model.layer_types:
        problem = "the model has no layers with linear attention, so it is the same as k_quant_last"
        yield warning("W321", path, problem, f"use {BEST}")


def odd_widths(request: Request) -> list[int]:
    """The widths of the model's matrices that make an odd number of blocks: k_quant packs them in pairs, and fails."""
    block = request.build.int4_block_size or BLOCK_SIZE
    return [width for width in _widths(request.model) if -(-width // block) % 2]


def _widths(model: ModelFacts | None) -> list[int]:
    if model is None:
        return []
    found = {model.hidden_size, model.heads * model.head_size, model.intermediate_size}
    return sorted(found - {0})


def _odd(request: Request) -> str:
    block = request.build.int4_block_size or BLOCK_SIZE
    widths = " and ".join(str(width) for width in odd_widths(request))
    return f"needs an even number of blocks in a row, and the model has rows of {widths} with blocks of {block}"

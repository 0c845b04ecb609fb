"""The models that ONNX Runtime GenAI's builder builds: facts of release 0.18.0, and findings for the others.

The architectures are those of `create_model` in `onnxruntime_genai/models/builder.py`. A test compares this table with
the installed builder. Small models with random weights were built and run, in float32 and int4 on a CPU, with the
transformers 5.23.0 of Enginery's toolchain: all of `BUILT` but `Lfm2Audio`. The others failed as is noted here.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from enginery.backends.model_kinds import kind_finding, unnamed
from enginery.backends.request import Request
from enginery.core.late import late
from enginery.models import ModelFacts
from enginery.releases import pytorch_architectures, releases_read
from enginery.spec import Finding, Precision, warning

if TYPE_CHECKING:
    from enginery.backends.tensorrt import release as tensorrt
else:
    tensorrt = late("enginery.backends.tensorrt.release")

READ = "0.18.0"
"""The release that was read."""

SPEECH = ("WhisperForConditionalGeneration",)
"""Built as an encoder and a decoder, which need sound."""

WITHOUT_TYPE = ("Lfm2AudioForConditionalGeneration",)
"""Models that the builder recognizes without a `model_type`."""

NEEDING_CODE = (
    "ChatGLMForConditionalGeneration",
    "ChatGLMModel",
    "InternLM2ForCausalLM",
    "Phi3SmallForCausalLM",
    "Phi3VForCausalLM",
    "Phi4MMForCausalLM",
    "VideoChatFlashQwenForCausalLM",
)
"""Models that transformers reads only with Python code from their repository."""

FAILING: Mapping[str, str] = {
    "Gemma3ForCausalLM": "it looks for rope_type where transformers 5 has one for each kind of layer",
    "Gemma3ForConditionalGeneration": "it looks for rope_type where transformers 5 has one for each kind of layer",
    "Gemma4ForConditionalGeneration": "it looks for global_head_dim, which transformers 5.23 keeps elsewhere",
    "Gemma4UnifiedForConditionalGeneration": "it looks for head_dim, which transformers 5.23 keeps for each layer",
    "PhiMoEForCausalLM": "it does not know the model's rotary scaling longrope",
}
"""Models that the builder names, and fails on -> why."""

FAILING_QUANTIZED: Mapping[str, str] = {
    "GptOssForCausalLM": "it makes int4 and int8 only from MXFP4 weights, and its toolchain lacks a package for them",
}
"""Models that the builder builds, but not in int4 and int8 -> why."""
QUANTIZED = frozenset({Precision.INT4, Precision.INT8})

BUILT = (
    "Ernie4_5ForCausalLM",
    "Gemma2ForCausalLM",
    "GemmaForCausalLM",
    "GptOssForCausalLM",
    "GraniteForCausalLM",
    "GraniteMoeHybridForCausalLM",
    "HunYuanDenseV1ForCausalLM",
    "Lfm2AudioForConditionalGeneration",
    "Lfm2ForCausalLM",
    "Lfm2MoeForCausalLM",
    "Lfm2VlForConditionalGeneration",
    "LlamaForCausalLM",
    "Mistral3ForConditionalGeneration",
    "MistralForCausalLM",
    "NemotronForCausalLM",
    "OlmoForCausalLM",
    "Phi3ForCausalLM",
    "PhiForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen2_5_VLForConditionalGeneration",
    "Qwen3ForCausalLM",
    "Qwen3VLForConditionalGeneration",
    "Qwen3_5ForConditionalGeneration",
    "Qwen3_5MoeForConditionalGeneration",
    "SmolLM3ForCausalLM",
)
ARCHITECTURES = frozenset({*BUILT, *FAILING, *NEEDING_CODE, *SPEECH})

SUFFIX = re.compile(r"For(CausalLM|ConditionalGeneration)$")
"""What many architectures have in common, so it does not make them similar."""

SCALINGS = frozenset({"yarn", "linear"})
"""Kinds of rotary scaling that the builder computes, unless the model's own class reads the scaling."""
OWN_SCALINGS: Mapping[str, frozenset[str]] = {
    "LlamaForCausalLM": frozenset({"llama3"}),
    "NemotronForCausalLM": frozenset({"llama3"}),
    "SmolLM3ForCausalLM": frozenset({"llama3"}),
    "HunYuanDenseV1ForCausalLM": frozenset({"dynamic"}),
    "Phi3ForCausalLM": frozenset({"longrope", "su", *SCALINGS}),
    "Qwen2_5_VLForConditionalGeneration": frozenset({"mrope", *SCALINGS}),
    "Qwen3VLForConditionalGeneration": frozenset({"mrope", *SCALINGS}),
}
"""Architecture -> the kinds that its class computes. From `make_rope_init` in the builder's classes.

The class of Llama, and those made from it, leave out any other kind without a word: such an engine computes with other
positions than the model was trained with. The other classes fail.
"""
SILENT = frozenset({"LlamaForCausalLM", "NemotronForCausalLM", "SmolLM3ForCausalLM", "HunYuanDenseV1ForCausalLM"})


def model_findings(request: Request, release: str) -> Iterator[Finding]:
    """Findings if the builder cannot build this model; none if the model is not known.

    For a release that was not read, and for a toolchain of the user, an unknown architecture is only a warning.
    """
    model = request.model
    if model is None or not (model.architecture or model.model_type):  # a source without both is refused
        return
    certain = release == READ and request.target.toolchain != "host"
    if not model.architecture:
        yield unnamed("E307", "the model builder chooses its code by it", model, ARCHITECTURES)
    elif finding := kind_finding(model, "onnxruntime"):
        yield finding
    elif not model.model_type and model.architecture not in WITHOUT_TYPE:
        problem = "the model's config.json has no model_type, by which transformers chooses the class that reads it"
        yield Finding("E307", "backend", problem, 'add it to config.json, such as "model_type": "llama"')
    elif model.architecture not in ARCHITECTURES:
        yield _softened(_unknown(model, release), certain=certain)
    elif reason := _obstacle(model.architecture, request.target.precision):
        problem = f"the model builder of {release} does not build {model.architecture}: {reason}"
        remedy = f"use another model{_elsewhere(model.architecture)}"
        yield _softened(Finding("E308", "backend", problem, remedy), certain=certain)
    else:
        yield from _lost_scaling(model, release)


def _unknown(model: ModelFacts, release: str) -> Finding:
    problem = f"the model builder of {release} does not know {model.architecture}"
    stems = {SUFFIX.sub("", name): name for name in BUILT}
    near = difflib.get_close_matches(SUFFIX.sub("", model.architecture), stems, n=2, cutoff=0.7)
    like = f"; similar architectures are {', '.join(stems[stem] for stem in near)}" if near else ""
    return Finding("E307", "backend", f"{problem}{like}", f"use another model{_elsewhere(model.architecture)}")


def _elsewhere(architecture: str) -> str:
    """Words for the backends of TensorRT-LLM that know an architecture; empty if none does."""
    newest = releases_read("pytorch", "architectures")[-1]
    knowing = ["tensorrt"] if tensorrt.first_release(architecture) else []
    knowing += ["pytorch"] if architecture in pytorch_architectures(newest).value else []
    return f", or on an NVIDIA GPU backend: {' or '.join(knowing)}" if knowing else ""


def _obstacle(architecture: str, precision: Precision) -> str:
    if architecture in NEEDING_CODE:
        return "transformers reads it only with Python code from its repository, which is refused"
    quantized = FAILING_QUANTIZED.get(architecture, "") if precision in QUANTIZED else ""
    return FAILING.get(architecture, quantized)


def _lost_scaling(model: ModelFacts, release: str) -> Iterator[Finding]:
    scaling = str((model.rope_scaling or {}).get("rope_type") or "default")
    computed = OWN_SCALINGS.get(model.architecture, SCALINGS)
    if scaling in {"default", *computed}:
        return
    how = "leaves out" if model.architecture in SILENT else "does not know"
    problem = f"the model builder of {release} {how} the rotary scaling {scaling} of {model.architecture}"
    yield Finding("E308", "backend", problem, f"use a model without it{_elsewhere(model.architecture)}")


def _softened(finding: Finding, *, certain: bool) -> Finding:
    if certain:
        return finding
    problem = f"{finding.problem}, as far as known from {READ}"
    return warning("W196", finding.path, problem, finding.remedy)

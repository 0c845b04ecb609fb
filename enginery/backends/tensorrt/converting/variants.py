"""What a script is told of the model, so that it need not guess it from the path of the weights.

Some scripts search the path for names such as `starcoder2`. In a store the path says nothing, or something wrong. They
get the name by an argument. Where a script has none, or does not use it, the directory of the weights is shown to the
script under that name (`weights_name`).
"""

from collections.abc import Iterator
from typing import Any

from enginery.backends.request import Request
from enginery.backends.tensorrt.release import kv_cache
from enginery.backends.tensorrt.script_arguments import Script, ScriptOption
from enginery.models import ModelFacts
from enginery.releases import QUANTIZE, recorded, refusal
from enginery.spec import Finding, Precision

BAICHUAN_2_VOCABULARY = 125696
BAICHUAN_7B_HIDDEN = 4096

GPT_VARIANTS = {
    "GPT2LMHeadModel": "gpt2",
    "GPT2LMHeadCustomModel": "santacoder",
    "GPTBigCodeForCausalLM": "starcoder",
    "Starcoder2ForCausalLM": "starcoder2",
    "PersimmonForCausalLM": "persimmon",
    "FuyuForCausalLM": "persimmon",
    "Kosmos2ForConditionalGeneration": "kosmos-2",
    "JAISLMHeadModel": "jais",
    "NemotronForCausalLM": "nemotron",
}
"""Architecture -> its name in `gpt/convert_checkpoint.py`."""
BY_PATH_ONLY = "kosmos-2"
"""A variant whose weights are loaded in another way if the path has its name, whatever the argument says."""
SAME_VARIANT = {"fuyu": "persimmon"}

GLM_NAMES = {
    "glm4": ("glm-4", "glm_4", "glm4", "codegeex4"),
    "chatglm3": ("chatglm3",),
    "chatglm2": ("chatglm2", "codegeex2"),
}
"""Version in `chatglm/convert_checkpoint.py` -> parts of the names of such models on the Hub."""
GLM_VOCABULARIES = {130528: "chatglm", 150528: "chatglm", 151552: "glm4"}
GLM_2_VOCABULARY = 65024
"""The vocabulary of ChatGLM2 and ChatGLM3."""
CHATGLM = ("chatglm", "glm-4-9b")
"""The family's name up to 0.16, and from a release after it on."""

GPT = "convert_checkpoint.py gpt"
GLM = "convert_checkpoint.py chatglm"


def family_options(chosen: Script, family: str, request: Request) -> Iterator[ScriptOption]:
    """Options that tell some families' scripts about the model. Other scripts find this out by themselves."""
    if not chosen.command.endswith(f" {family}"):
        return
    if family in {"gemma", "recurrentgemma"}:
        yield ScriptOption("source", ("--ckpt-type", "--ckpt_type"), "hf")
    if family == "gemma" and kv_cache(request) == "int8":
        yield ScriptOption("source", ("--tokenizer_dir",), "{weights}/tokenizer.model")
    if request.model is not None:
        yield from _model_options(chosen, family, request, request.model)


def _model_options(chosen: Script, family: str, request: Request, model: ModelFacts) -> Iterator[ScriptOption]:
    if family == "baichuan":
        yield ScriptOption("source", ("--model_version",), _baichuan(model))
    if family == "qwen" and chosen.find("--qwen_type"):
        yield ScriptOption("source", ("--qwen_type",), "qwen2" if model.architecture.startswith("Qwen2") else "qwen")
    if family == "phi" and chosen.find("--model_type"):
        yield ScriptOption("source", ("--model_type",), _phi(model))
    if family == "gpt" and _takes_variant(chosen, request, model):
        yield ScriptOption("source", ("--gpt_variant",), GPT_VARIANTS[model.architecture])
    if family in CHATGLM and not extra_value(request, "--chatglm_version") and (version := glm_version(model)):
        yield ScriptOption("source", ("--chatglm_version",), version)


def weights_name(chosen: Script, family: str, request: Request) -> str:
    """The name that the directory of the weights must have, because the script searches its path for it; or empty."""
    model = request.model
    if model is None:
        return ""
    if chosen.command == QUANTIZE:
        by_path = model.architecture.casefold().startswith("mpt") and _holds(f"{QUANTIZE}: MPT by its path", chosen)
        return "mpt" if by_path else ""
    if family == "gpt":
        return _gpt_name(chosen, request, model)
    if family in CHATGLM and measures_int8(request) and _holds(f"{GLM}: --chatglm_version without effect", chosen):
        return extra_value(request, "--chatglm_version") or glm_version(model)
    if model.architecture.startswith("Exaone") and _holds("convert_checkpoint.py llama: EXAONE by its path", chosen):
        return "exaone"
    return ""


def variant_findings(chosen: Script, family: str, request: Request) -> Iterator[Finding]:
    """A finding if a script must be told what the model is, and its `config.json` does not say it."""
    model = request.model
    if model is None or family not in CHATGLM or not chosen.command.endswith(f" {family}"):
        return
    if glm_version(model) or extra_value(request, "--chatglm_version"):
        return
    problem = f"{chosen.title} needs the version of this {model.architecture}, which its config.json does not say"
    remedy = 'set it to ["--chatglm_version", "chatglm2"], or to another version that the script knows'
    yield Finding("E134", "convert.extra_args", problem, remedy)


def glm_version(model: ModelFacts) -> str:
    """The version of a ChatGLM as the script names it; empty if it cannot be known.

    ChatGLM2 and ChatGLM3 differ in one thing that the script looks at: how `rope_ratio` scales the rotary embedding.
    Without such a ratio, both names give the same checkpoint.
    """
    if model.model_type == "glm" or model.architecture.startswith("GLM"):
        return "glm"
    named = str(model.details.get("_name_or_path") or "").casefold()
    for version, parts in GLM_NAMES.items():
        if any(part in named for part in parts):
            return version
    vocabulary = _number(model.details.get("padded_vocab_size")) or model.vocab_size
    if vocabulary != GLM_2_VOCABULARY:
        return GLM_VOCABULARIES.get(int(vocabulary), "")
    return "chatglm3" if _number(model.details.get("rope_ratio")) in {0, 1} else ""


def extra_value(request: Request, flag: str) -> str:
    """The value of a flag in `convert.extra_args`; empty if it is not there."""
    extra = request.convert.extra_args
    for at, argument in enumerate(extra):
        name, equals, value = argument.partition("=")
        if name == flag:
            return value if equals else next(iter(extra[at + 1 : at + 2]), "")
    return ""


def has_extra(request: Request, flag: str) -> bool:
    """Whether `convert.extra_args` has a flag."""
    return any(argument.partition("=")[0] == flag for argument in request.convert.extra_args)


def measures_int8(request: Request) -> bool:
    """Whether a family's own script measures the model with texts, for SmoothQuant or for an int8 KV cache."""
    return request.target.precision is Precision.INT8_SMOOTHQUANT or kv_cache(request) == "int8"


def _takes_variant(chosen: Script, request: Request, model: ModelFacts) -> bool:
    """Whether the script needs `--gpt_variant`: it cannot know the variant, or reads a wrong one in `model_type`."""
    variant, flag = GPT_VARIANTS.get(model.architecture), chosen.find("--gpt_variant")
    if variant is None or flag is None or variant not in flag.choices or extra_value(request, flag.name):
        return False
    return not _reads_type(chosen) or variant != SAME_VARIANT.get(model.model_type, model.model_type)


def _gpt_name(chosen: Script, request: Request, model: ModelFacts) -> str:
    variant = extra_value(request, "--gpt_variant") or GPT_VARIANTS.get(model.architecture, "")
    flag = chosen.find("--gpt_variant")
    unknown = flag is None or variant not in flag.choices
    ignored = _holds(f"{GPT}: --gpt_variant without effect", chosen)
    return variant if ignored or variant == BY_PATH_ONLY or (unknown and not _reads_type(chosen)) else ""


def _reads_type(chosen: Script) -> bool:
    """Whether the release also takes the variant from `model_type`, and not only from the path."""
    return bool(recorded(f"{GPT}: variant", chosen.release, "by_type"))


def _holds(name: str, chosen: Script) -> bool:
    return refusal(name, chosen.release).value is not None


def _baichuan(model: ModelFacts) -> str:
    generation = "v2" if model.vocab_size >= BAICHUAN_2_VOCABULARY else "v1"
    return f"{generation}_{'7b' if model.hidden_size == BAICHUAN_7B_HIDDEN else '13b'}"


def _phi(model: ModelFacts) -> str:
    if model.architecture != "Phi3ForCausalLM":
        return "phi-2"
    return "Phi-3-mini-128k-instruct" if model.rope_scaling else "Phi-3-mini-4k-instruct"


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0

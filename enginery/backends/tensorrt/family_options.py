"""What a few families' converters must be told of the model, which others find out by themselves."""

from collections.abc import Iterator

from enginery.backends.tensorrt.script_arguments import Script, Wish
from enginery.model_facts import ModelFacts

BAICHUAN_2_VOCABULARY = 125696
BAICHUAN_7B_HIDDEN = 4096


def family_wishes(script: Script, family: str, model: ModelFacts | None) -> Iterator[Wish]:
    """The arguments that only this family's script has; none for `quantize.py`."""
    if not script.command.endswith(f" {family}"):
        return
    if family in {"gemma", "recurrentgemma"}:
        yield Wish("source", ("--ckpt-type", "--ckpt_type"), "hf")
    if model is None:
        return
    if family == "baichuan":
        yield Wish("source", ("--model_version",), _baichuan(model))
    if family == "qwen" and script.find("--qwen_type"):
        yield Wish("source", ("--qwen_type",), "qwen2" if model.architecture.startswith("Qwen2") else "qwen")
    if family == "phi" and script.find("--model_type"):
        yield Wish("source", ("--model_type",), _phi(model))


def _baichuan(model: ModelFacts) -> str:
    generation = "v2" if model.vocab_size >= BAICHUAN_2_VOCABULARY else "v1"
    return f"{generation}_{'7b' if model.hidden_size == BAICHUAN_7B_HIDDEN else '13b'}"


def _phi(model: ModelFacts) -> str:
    if model.architecture != "Phi3ForCausalLM":
        return "phi-2"
    return "Phi-3-mini-128k-instruct" if model.rope_scaling else "Phi-3-mini-4k-instruct"

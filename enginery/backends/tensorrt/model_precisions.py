"""What the release's own table says of a precision for a model: it is coarse and late, so that it only makes a note."""

from collections.abc import Iterator

from enginery.errors import UsageError
from enginery.model_facts import ModelFacts
from enginery.releases.precisions import model_formats
from enginery.spec import Precision

ROWS = {
    "Baichuan": "Baichuan",
    "BaiChuan": "Baichuan",
    "Bloom": "BLOOM",
    "ChatGLM": "ChatGLM",
    "Dbrx": "DBRX",
    "Falcon": "Falcon",
    "GPT2": "GPT",
    "GPTJ": "GPT-J",
    "GPTNeoX": "GPT-NeoX",
    "Gemma": "Gemma",
    "InternLM2": "InternLM2",
    "InternLM": "InternLM",
    "Llama": "LLaMA",
    "MPT": "MPT",
    "Mamba": "Mamba",
    "Mistral": "Mistral",
    "Mixtral": "Mixtral",
    "OPT": "OPT",
    "Phi": "Phi",
    "QWen": "Qwen",
    "Qwen": "Qwen",
    "RW": "Falcon",
    "RecurrentGemma": "RecurrentGemma",
    "Skywork": "Skywork",
    "Starcoder2": "StarCoder2",
}
"""How architectures begin -> the table's name for the model."""
FORMATS = {
    Precision.FP8: "FP8",
    Precision.INT8_SMOOTHQUANT: "W8A8 SQ",
    Precision.INT8_WEIGHT_ONLY: "W8A16",
    Precision.INT4_WEIGHT_ONLY: "W4A16",
    Precision.INT4_AWQ: "W4A16 AWQ",
    Precision.NVFP4: "NVFP4",
}
"""Quantized precisions -> the table's columns; it has none for the others."""


def table_remark(release: str, model: ModelFacts, precision: Precision) -> Iterator[str]:
    """That the table does not name the precision for the model; nothing where it does, or names no such model."""
    row = next((name for start, name in ROWS.items() if model.architecture.startswith(start)), None)
    if row is None or precision not in FORMATS:
        return
    try:
        named = model_formats(release, row)
    except UsageError:  # the table of an older release has no such model
        return
    if FORMATS[precision] not in named.value:
        of = named.provenance.release
        yield f"the precision table of {of} does not name {precision} for {row}: it may not have been tried there"

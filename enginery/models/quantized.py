"""Whether weights are quantized already, and how: from `config.json`, from files beside it, and from the tensors.

Loaders look into `quantization_config` of `config.json` (and TensorRT-LLM into ModelOpt's file). Weights that say it
elsewhere, or nowhere, are taken for plain weights. Then a loader finds none of its tensors, and uses random numbers.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from enginery.models.headers import FLOATS, Tensor
from enginery.models.tensors import HARMLESS

SAID_IN = "said_in"
"""Added to a `quantization_config` that was found elsewhere: the key of `config.json` or the file that has it."""
METHOD = "quant_method"
ALGORITHM = "quant_algo"

OTHER_KEYS = ("quantization", "quant_config", "compression_config", "quantize_config", "quantization_bit")
"""Keys of `config.json` under which some tools write how the weights are quantized."""

MODELOPT_FILE = "hf_quant_config.json"
"""ModelOpt's own file about the quantization. Some versions do not write the quantization to `config.json` too."""
BESIDE: Mapping[str, str] = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "quantization_config.json": "unnamed",
    "quant_cfg.json": "unnamed",
    "quanto_qmap.json": "quanto",
    "quantization_map.json": "quanto",
}
"""File beside `config.json` -> the format that it means if it names none."""

MUST_BE_PACKED = frozenset({"fp8", "modelopt", "awq", "gptq"})
"""Formats whose weights are never in tensors of plain floats."""
UNPACKED_BITS = 16
NEEDS_SCALE = ".weight_scale"


class Packed(NamedTuple):
    """A format of quantized weights that was found by the tensors.

    Attributes:
        name: its name for people.
        example: the name of a tensor that shows it.
    """

    name: str
    example: str


class Sign(NamedTuple):
    """Tensors that only one format has.

    Attributes:
        ending: a pattern for the end of their names.
        dtypes: the number formats that they must have; empty for any.
        beside: what stands in place of `weight` in the name of another tensor that must be there; empty for none.
    """

    name: str
    ending: str
    dtypes: frozenset[str] = frozenset()
    beside: str = ""

    def fits(self, name: str, tensors: Mapping[str, Tensor]) -> bool:
        """Whether the tensor that must be beside this one is there."""
        return not self.beside or name.removesuffix(".weight") + self.beside in tensors


BYTES = frozenset({"U8", "I8"})
WORDS = frozenset({"U32", "I32"})
NEVER_WEIGHTS = FLOATS | {"I64", "BOOL", "C64"}
FP8 = frozenset({"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})

SIGNS = (
    Sign("bitsandbytes, 4 bits", r"\.quant_state\.bitsandbytes__\w+$|\.(nested_)?absmax$|\.(nested_)?quant_map$"),
    Sign("bitsandbytes, 8 bits", r"\.SCB$|\.weight_format$"),
    Sign("mxfp4", r"_blocks$", BYTES),
    Sign("nvfp4 of ModelOpt", r"\.weight$", BYTES, ".weight_scale_2"),
    Sign("w4a8_awq of ModelOpt", r"\.weight_scale_2$"),
    Sign("compressed-tensors", r"\.weight_packed$|\.weight_global_scale$|\.weight_zero_point$"),
    Sign("fp8 with block scales, as DeepSeek's", r"\.weight_scale_inv$|_scale_inv$"),
    Sign("fp8", r"\.weight$", FP8, NEEDS_SCALE),
    Sign("HQQ", r"\.W_q$"),
    Sign("AQLM", r"\.codebooks$|\.codes$"),
    Sign("VPTQ", r"\.centroids(\.weight)?$"),
    Sign("SpQR", r"\.dense_weights$"),
    Sign("EXL2", r"\.q_invperm$|\.q_scale_max$"),
    Sign("EXL3", r"\.trellis$"),
    Sign("quanto", r"\.weight\._(data|scale)$"),
    Sign("torchao", r"_qdata$"),
    Sign("quark or fake quantization", r"\.weight_quantizer\.\w+$"),
    Sign("EETQ", r"\.weight_scales$"),
    Sign("MLX", r"\.weight$", WORDS, ".scales"),
    Sign("int8", r"\.weight$", frozenset({"I8"}), NEEDS_SCALE),
    Sign("BitNet", r"\.weight$", frozenset({"U8"}), NEEDS_SCALE),
)
"""The signs of each format, the surest first. GPTQ and AWQ have the same names: see `_gptq_or_awq`."""


def packed_format(tensors: Mapping[str, Tensor]) -> Packed | None:
    """The format of quantized weights, by the names and number formats of their tensors; None for plain weights."""
    for sign in SIGNS:
        ending = re.compile(sign.ending)
        for name, tensor in tensors.items():
            if (not sign.dtypes or tensor.dtype in sign.dtypes) and ending.search(name) and sign.fits(name, tensors):
                return Packed(sign.name, name)
    return _gptq_or_awq(tensors) or _unnamed(tensors)


def _gptq_or_awq(tensors: Mapping[str, Tensor]) -> Packed | None:
    """GPTQ packs the inputs of a matrix, AWQ its outputs. Their names of tensors are the same."""
    for name in (name for name in tensors if name.endswith(".qweight")):
        stem = name.removesuffix(".qweight")
        scales = tensors.get(f"{stem}.scales")
        of_outputs = scales is not None and scales.shape[-1:] != tensors[name].shape[-1:]
        return Packed("AWQ" if of_outputs and f"{stem}.g_idx" not in tensors else "GPTQ", name)
    return None


def _unnamed(tensors: Mapping[str, Tensor]) -> Packed | None:
    """Matrices that are no floats, in a format that is not known."""
    for name, tensor in tensors.items():
        if len(tensor.shape) > 1 and tensor.dtype not in NEVER_WEIGHTS and not HARMLESS.search(name):
            return Packed(f"an unknown format ({tensor.dtype} numbers)", name)
    return None


def with_quantization(config: Mapping[str, Any], beside: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """The configuration with its quantization under `quantization_config`, wherever it is said.

    Args:
        config: the content of `config.json`.
        beside: the content of the files beside it that may say it, by name.
    """
    own = config.get("quantization_config")
    if isinstance(own, Mapping) and own:
        return {**config, "quantization_config": _with_method(own, "")}
    for said_in, default, found in _said_elsewhere(config, beside):
        if (about := _as_mapping(found, default)) is not None:
            said = {} if said_in == MODELOPT_FILE else {SAID_IN: said_in}
            return {**config, "quantization_config": {**about, **said}}
    return config


def _said_elsewhere(
    config: Mapping[str, Any], beside: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, str, object]]:
    """The places that may say it: where, the format that it means if it names none, and what is there."""
    modelopt = beside.get(MODELOPT_FILE, {}).get("quantization")
    yield MODELOPT_FILE, "modelopt", modelopt if isinstance(modelopt, Mapping) and modelopt.get(ALGORITHM) else None
    text = config.get("text_config")
    if isinstance(text, Mapping):
        yield "config.json's text_config.quantization_config", "", text.get("quantization_config")
    for key in OTHER_KEYS:
        yield f"config.json's {key}", "compressed-tensors" if key == "compression_config" else "", config.get(key)
    for name, default in BESIDE.items():
        if name in beside:
            yield name, default, beside[name]


def _as_mapping(found: object, default: str) -> Mapping[str, Any] | None:
    """A quantization as `quantization_config` would have it; None if this says that there is none."""
    if isinstance(found, str) and found.lower() not in {"", "none"}:
        return {METHOD: found.lower()}
    if type(found) is int and 0 < found < UNPACKED_BITS:
        return {METHOD: default or "unnamed", "bits": found}
    if not isinstance(found, Mapping) or not found:
        return None
    inner = found.get("quantization")
    if isinstance(inner, Mapping):
        return _as_mapping(inner, default)
    bits = found.get("bits", found.get("w_bit"))
    names_nothing = ALGORITHM in found and not found[ALGORITHM] and METHOD not in found
    return None if names_nothing or (type(bits) is int and bits >= UNPACKED_BITS) else _with_method(found, default)


def _with_method(about: Mapping[str, Any], default: str) -> Mapping[str, Any]:
    """The quantization with a name for its method. ModelOpt and MLX write none."""
    if about.get(METHOD):
        return about
    known: tuple[tuple[str, Callable[[], bool]], ...] = (
        ("modelopt", lambda: bool(about.get(ALGORITHM))),
        ("awq", lambda: "w_bit" in about or "zero_point" in about),
        ("gptq", lambda: "desc_act" in about),
        ("bitsandbytes", lambda: bool(about.get("load_in_4bit") or about.get("load_in_8bit"))),
        ("compressed-tensors", lambda: "config_groups" in about),
        ("mlx", lambda: not default and {"bits", "group_size"} <= set(about)),
    )
    method = next((name for name, fits in known if fits()), default)
    return {**about, METHOD: method} if method else about

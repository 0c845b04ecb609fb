"""Joins the ranks of a checkpoint for `trtllm-build` and compares it with the model that it was made from.

Runs in ModelOpt's environment. Its arguments: the JSON file to write, the directory that the checkpoints are in, the
source, and the checkpoints' names. For each tensor of the source it writes the largest difference. The unit is the
largest error that rounding to the tensor's format can cause: up to 1 is rounding, more is a mistake.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found,unused-ignore]
from safetensors import safe_open  # type: ignore[import-not-found,unused-ignore]

FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
LOWEST_FP8 = 2.0**-9
BF16_SLACK = 2.0**-7
"""AWQ and SmoothQuant round the smoothed weights, and the scales of the smoothing, to 16 bits."""


class Tensors:
    """The tensors of the safetensors files in a directory whose names match. Each is read at its first use."""

    def __init__(self, directory: Path, pattern: str) -> None:
        self.files: dict[str, Any] = {}
        for path in sorted(directory.glob(pattern)):
            opened: Any = safe_open(path, "pt")
            self.files.update(dict.fromkeys(opened.keys(), opened))

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def __getitem__(self, name: str) -> Any:
        return self.files[name].get_tensor(name)


def unpacked(tensors: Tensors, layer: str) -> tuple[Any, Any]:
    """A rank's matrix, dequantized, and the largest rounding error of each number."""
    weight = tensors[f"{layer}.weight"]
    if weight.dtype in (torch.bfloat16, torch.float16, torch.float32):
        return weight.float(), torch.zeros_like(weight, dtype=torch.float32)
    scale = tensors[f"{layer}.weights_scaling_factor"].float()
    if weight.dtype == torch.float8_e4m3fn:
        found = weight.float()
        return found * scale, (found.abs() / 16).clamp(min=LOWEST_FP8) * scale * 1.01
    if weight.dtype == torch.uint8:
        return unpacked_fp4(tensors, layer, weight, scale)
    smoothing = tensors[f"{layer}.prequant_scaling_factor"].float()
    if scale.dim() == 1:
        numbers, steps = weight.float(), scale[:, None].expand(weight.shape)
    else:
        numbers = unpacked_int4(weight)
        steps = scale.repeat_interleave(numbers.shape[1] // scale.shape[1], dim=1)
    values = numbers * steps * smoothing
    return values, (steps * smoothing.abs() / 2 + values.abs() * BF16_SLACK) * 1.02


def unpacked_int4(weight: Any) -> Any:
    """Unpack int4: each byte holds two rows, the even one in its lower half."""
    low, high = weight.to(torch.int8) << 4 >> 4, weight.to(torch.int8) >> 4
    return torch.stack((low, high), dim=1).reshape(-1, weight.shape[1]).float()


def unpacked_fp4(tensors: Tensors, layer: str, weight: Any, scale: Any) -> tuple[Any, Any]:
    """Unpack fp4: each byte holds two columns, the even one in its lower half."""
    nibbles = torch.stack((weight & 15, weight >> 4), dim=-1).reshape(weight.shape[0], -1).long()
    values = torch.tensor(FP4)[nibbles & 7] * torch.where(nibbles > 7, -1.0, 1.0)
    steps = (scale * tensors[f"{layer}.weights_scaling_factor_2"].float()).repeat_interleave(16, dim=1)
    gap = torch.where(values.abs() >= 4, 2.0, torch.where(values.abs() >= 2, 1.0, 0.5))
    return values * steps, (gap / 2 + values.abs() / 16) * steps * 1.02


def gathered(ranks: list[Tensors], layer: str, dim: int) -> tuple[Any, Any]:
    """A matrix of which each rank has a part, joined along `dim`."""
    parts = [unpacked(rank, layer) for rank in ranks]
    return torch.cat([part[0] for part in parts], dim), torch.cat([part[1] for part in parts], dim)


def gathered_qkv(ranks: list[Tensors], layer: str, config: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """The joined matrices of queries, keys and values. Each rank has its heads of each, one after the other."""
    size, shared = config["head_size"], len(ranks)
    sizes = [size * (config["num_attention_heads"] // shared)]
    sizes += [size * max(1, config["num_key_value_heads"] // shared)] * 2
    repeats = max(1, shared // config["num_key_value_heads"])
    split = [[part.split(sizes) for part in unpacked(rank, layer)] for rank in ranks]
    for which in range(3):
        taken = split if which == 0 else split[::repeats]
        yield torch.cat([rank[0][which] for rank in taken]), torch.cat([rank[1][which] for rank in taken])


def pairs(checkpoint: Path, config: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """The name of each tensor in the source, the tensor joined from the checkpoint, and its allowed difference."""
    tensor_parallel, stages = config["mapping"]["tp_size"], config["mapping"]["pp_size"]
    ranks = [Tensors(checkpoint, f"rank{rank}.safetensors") for rank in range(tensor_parallel * stages)]
    first, last = ranks[:tensor_parallel], ranks[-tensor_parallel:]
    yield "model.embed_tokens.weight", *gathered(first, "transformer.vocab_embedding", 0)
    if not config["share_embedding_table"]:
        yield "lm_head.weight", *gathered(last, "lm_head", 0)
    yield "model.norm.weight", *unpacked(last[0], "transformer.ln_f")
    per_stage = config["num_hidden_layers"] // stages
    for number in range(config["num_hidden_layers"]):
        stage = ranks[number // per_stage * tensor_parallel :][:tensor_parallel]
        yield from layer_pairs(stage, f"transformer.layers.{number % per_stage}", f"model.layers.{number}", config)


def layer_pairs(ranks: list[Tensors], here: str, there: str, config: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """The same as `pairs`, for one layer."""
    yield f"{there}.input_layernorm.weight", *unpacked(ranks[0], f"{here}.input_layernorm")
    yield f"{there}.post_attention_layernorm.weight", *unpacked(ranks[0], f"{here}.post_layernorm")
    for name, part in zip("qkv", gathered_qkv(ranks, f"{here}.attention.qkv", config), strict=True):
        yield f"{there}.self_attn.{name}_proj.weight", *part
    yield f"{there}.self_attn.o_proj.weight", *gathered(ranks, f"{here}.attention.dense", 1)
    for name, own, dim in (("gate_proj", "fc", 0), ("up_proj", "gate", 0), ("down_proj", "proj", 1)):
        yield f"{there}.mlp.{name}.weight", *gathered(ranks, f"{here}.mlp.{own}", dim)


def compare(checkpoint: Path, weights: Path) -> dict[str, float]:
    """The largest difference of each tensor, in units of the rounding error; 0 if equal, infinite for another shape."""
    config = json.loads((checkpoint / "config.json").read_text())
    dtype, source = getattr(torch, config["dtype"]), Tensors(weights, "*.safetensors")
    worst = {}
    for name, found, allowed in pairs(checkpoint, config):
        original = source[name].to(dtype).float()
        rows = original.shape[0]  # the checkpoint may have more: a vocabulary is padded so that the ranks can share it
        worst[name] = in_roundings((found[:rows] - original).abs(), allowed[:rows])
    return worst


def in_roundings(difference: Any, allowed: Any) -> float:
    """The largest difference divided by the allowed one; infinite where no difference is allowed and there is one."""
    if (difference[allowed == 0] != 0).any():
        return float("inf")
    rounded = allowed > 0
    return float((difference[rounded] / allowed[rounded]).max()) if rounded.any() else 0.0


if __name__ == "__main__":
    output, directory, weights, *names = sys.argv[1:]
    results = {name: compare(Path(directory) / name, Path(weights)) for name in names}
    Path(output).write_text(json.dumps(results), encoding="utf-8")

"""How far engines of ONNX Runtime are from the model in float32, for each way to quantize, against their size.

    python3 benchmarks/divergence.py MODEL TEXTS RESULT.json --provider cpu

MODEL is a Hugging Face directory, and TEXTS a directory of text files. Needs torch, transformers and ONNX Runtime GenAI
with its builder, but not Enginery. The model in float32 reads the texts; then each engine is built, reads the same
tokens, and its probabilities of each next token are compared.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

PIECE = 500
"""Longest piece of a text, in tokens."""
TOP = 64
"""The second divergence is over this many of the model's likeliest tokens, and all others together."""
MIXED = "matmul_mixed_precision=last_matmul:int8,mixed_layers:int8"
RTN_MIXED = ("algo_config=rtn", MIXED)
K_QUANT_MIXED = ("algo_config=k_quant_mixed",)
FUSED = "fuse_mlp_gate_up=true"
ALGORITHMS: dict[str, tuple[str, ...]] = {
    "default": (),
    "rtn": ("algo_config=rtn",),
    "rtn_last": ("algo_config=rtn_last",),
    "rtn_mixed": RTN_MIXED,
    "k_quant": ("algo_config=k_quant",),
    "k_quant_last": ("algo_config=k_quant_last",),
    "k_quant_mixed": K_QUANT_MIXED,
}
INT4 = {
    **{f"int4 {name}": ("int4", *options) for name, options in ALGORITHMS.items()},
    "int4 default, asymmetric": ("int4", "is_symmetric=false"),
    "int4 rtn_mixed, asymmetric": ("int4", *RTN_MIXED, "is_symmetric=false"),
    "int4 k_quant_mixed, asymmetric": ("int4", *K_QUANT_MIXED, "is_symmetric=false"),
    **{f"int4 default, blocks of {size}": ("int4", f"block_size={size}") for size in (16, 64, 128)},
    "int4 rtn_mixed, blocks of 16": ("int4", *RTN_MIXED, "block_size=16"),
    "int4 rtn_mixed, blocks of 64": ("int4", *RTN_MIXED, "block_size=64"),
    "int4 k_quant_mixed, blocks of 16": ("int4", *K_QUANT_MIXED, "block_size=16"),
    "int4 k_quant_mixed, blocks of 64": ("int4", *K_QUANT_MIXED, "block_size=64"),
    "int4 k_quant_mixed, float32 arithmetic": ("int4", *K_QUANT_MIXED, "accuracy_level=1"),
}
INT8 = {
    "int8": ("int8",),
    "int8 k_quant": ("int8", "algo_config=k_quant"),
    "int8, blocks of 128": ("int8", "block_size=128"),
}
WAYS: dict[str, dict[str, tuple[str, ...]]] = {
    "cpu": {"float32": ("fp32",), **INT8, **INT4},
    "cuda": {
        "float16": ("fp16", FUSED),
        "bfloat16": ("bf16", FUSED),
        "int8": ("int8", FUSED),
        "int4 default": ("int4", FUSED),
        "int4 rtn_mixed": ("int4", FUSED, *RTN_MIXED),
        "int4 k_quant_mixed": ("int4", FUSED, *K_QUANT_MIXED),
    },
}
"""Provider -> name in the table -> the builder's precision and extra options."""


def pieces(model: Path, texts: Path) -> list[list[int]]:
    """The texts' tokens, in pieces."""
    from tokenizers import Tokenizer  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    found = []
    for path in sorted(texts.glob("*.txt")):
        ids = tokenizer.encode(path.read_text(encoding="utf-8"), add_special_tokens=False).ids
        found += [ids[start : start + PIECE] for start in range(0, len(ids), PIECE)]
    return [ids for ids in found if len(ids) > 1]


def read_by_model(model: Path, tokens: Sequence[list[int]], output: Path) -> None:
    """Write the log probabilities of every next token, by the model in float32."""
    import torch  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
    from transformers import (  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
        AutoModelForCausalLM,
    )

    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval().to(device)
    with torch.no_grad():
        rows = [
            torch.log_softmax(loaded(torch.tensor([ids], device=device)).logits[0, :-1], -1).cpu() for ids in tokens
        ]
    np.save(output, torch.cat(rows).numpy())


def build(model: Path, engine: Path, provider: str, way: Sequence[str]) -> None:
    """Build an engine with the builder's command."""
    precision, *options = way
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", model, "-o", engine]
    command += ["-c", f"{engine}.cache", "-p", precision, "-e", provider]
    command += ["--extra_options", "hf_token=false", "hf_remote=false", *options]
    quiet = {"HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "3"}
    subprocess.run([str(word) for word in command], env={**os.environ, **quiet}, check=True, capture_output=True)


def compare(reference: Path, tokens: Sequence[list[int]], engine: Path, threads: int) -> dict[str, Any]:
    """Let an engine read the texts, and compare it with the model."""
    import onnxruntime  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
    import onnxruntime_genai as genai  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

    expected = np.load(reference, mmap_mode="r")
    decoder: dict[str, Any] = {"session_options": {"intra_op_num_threads": threads}}
    config = genai.Config(str(engine))
    config.overlay(json.dumps({"model": {"pad_token_id": -1, "decoder": decoder}}))
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    loaded = genai.Model(config)
    parts: dict[str, list[Any]] = {"kl": [], "kl_top": [], "same": [], "loss": [], "own_loss": []}
    start = 0
    for ids in tokens:
        options = genai.GeneratorParams(loaded)
        options.set_search_options(max_length=len(ids) + 1, do_sample=False)
        generator = genai.Generator(loaded, options)
        generator.append_tokens(ids[:-1])
        found = log_softmax(np.asarray(generator.get_output("logits"), dtype=np.float32)[0])
        wanted = np.asarray(expected[start : start + len(found)])
        start += len(found)
        for name, values in differences(wanted, found, np.asarray(ids[1:])).items():
            parts[name].append(values)
    return figures({name: np.concatenate(values) for name, values in parts.items()}, loaded.device_type)


def differences(wanted: Any, found: Any, following: Any) -> dict[str, Any]:
    """The measures of each position: both divergences, whether the likeliest token is the same, and both losses."""
    top = np.argpartition(-wanted, min(TOP, wanted.shape[1]) - 1, axis=1)[:, :TOP]
    top_wanted, top_found = (np.take_along_axis(each, top, 1) for each in (wanted, found))
    rest_wanted, rest_found = (np.maximum(1 - np.exp(each).sum(1), 1e-9) for each in (top_wanted, top_found))
    inside = (np.exp(top_wanted) * (top_wanted - top_found)).sum(1)
    position = np.arange(len(following))
    return {
        "kl": (np.exp(wanted) * (wanted - found)).sum(1),
        "kl_top": inside + rest_wanted * np.log(rest_wanted / rest_found),
        "same": wanted.argmax(1) == found.argmax(1),
        "loss": -wanted[position, following],
        "own_loss": -found[position, following],
    }


def log_softmax(logits: Any) -> Any:
    """Log probabilities of logits."""
    moved = logits - logits.max(-1, keepdims=True)
    return moved - np.log(np.exp(moved).sum(-1, keepdims=True))


def figures(found: dict[str, Any], device: str) -> dict[str, Any]:
    """The figures of one engine."""
    return {
        "device": device,
        "tokens": len(found["kl"]),
        "mean_kl": round(float(found["kl"].mean()), 5),
        "p99_kl": round(float(np.percentile(found["kl"], 99)), 4),
        "mean_kl_top": round(float(found["kl_top"].mean()), 5),
        "p99_kl_top": round(float(np.percentile(found["kl_top"], 99)), 4),
        "top1": round(float(found["same"].mean()), 4),
        "perplexity": round(float(np.exp(found["own_loss"].mean())), 3),
        "perplexity_ratio": round(float(np.exp(found["own_loss"].mean() - found["loss"].mean())), 4),
    }


def measured(name: str, work: Path, tokens: Sequence[list[int]], settings: argparse.Namespace) -> dict[str, Any]:
    """Build and compare one engine. What the builder or the runtime refuses is told with its reason."""
    way = WAYS[settings.provider][name]
    engine = work / name.replace(" ", "-").replace(",", "")
    try:
        build(settings.model, engine, settings.provider, way)
        with multiprocessing.get_context("spawn").Pool(1) as own_process:  # frees the engine's memory
            found = own_process.apply(compare, (work / "reference.npy", tokens, engine, settings.threads))
    except subprocess.CalledProcessError as error:
        return {"name": name, "options": way, "not_built": error.stderr.decode().strip().splitlines()[-1]}
    except RuntimeError as error:
        return {"name": name, "options": way, "not_loaded": str(error).replace(f"{work}/", "")}
    size = sum(file.stat().st_size for file in engine.glob("model.onnx*"))
    return {"name": name, "options": way, "megabytes": round(size / 1e6, 1), **found}


def table(rows: Iterable[dict[str, Any]]) -> str:
    """The table for the documentation."""
    lines = ["| engine | MB | mean KL | p99 KL | same first choice | perplexity |", "|---|---|---|---|---|---|"]
    for row in rows:
        if "mean_kl" in row:
            numbers = (
                f"{row['mean_kl']:.4f} | {row['p99_kl']:.3f} | {row['top1']:.1%} | x {row['perplexity_ratio']:.3f}"
            )
            lines.append(f"| {row['name']} | {row['megabytes']} | {numbers} |")
        else:
            lines.append(f"| {row['name']} | {row.get('not_built') or row.get('not_loaded')} | | | | |")
    return "\n".join(lines)


def main() -> None:
    """Measure all ways of one provider, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--provider", choices=list(WAYS), default="cpu")
    parser.add_argument("--threads", type=int, default=2, help="threads of each engine on a CPU")
    parser.add_argument("--at-once", type=int, default=1, help="engines that are built and measured at once")
    settings = parser.parse_args()
    tokens = pieces(settings.model, settings.texts)
    with TemporaryDirectory(prefix="divergence-") as scratch:
        work = Path(scratch)
        read_by_model(settings.model, tokens, work / "reference.npy")
        with ThreadPoolExecutor(settings.at_once) as pool:
            work_on = lambda name: measured(name, work, tokens, settings)  # noqa: E731
            rows = list(pool.map(work_on, WAYS[settings.provider]))
    command = f"benchmarks/divergence.py MODEL TEXTS RESULT --provider {settings.provider}"
    result = {"command": command, "texts": len(list(settings.texts.glob("*.txt"))), "engines": rows}
    settings.result.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(rows), flush=True)


if __name__ == "__main__":
    main()

"""How fast ONNX Runtime GenAI decodes on this machine's GPU, one request at a time, against transformers.

    python3 benchmarks/decoding.py MODEL RESULT.json

MODEL is a Hugging Face directory. Needs torch, transformers and ONNX Runtime GenAI for CUDA with its builder, but not
Enginery. Both are measured in turns, so that both meet the same machine. Each loads in a process of its own.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

PROMPT = list(range(1000, 1032))
TOKENS = 256
REPEATS = 5
ENDLESS = 3
"""A token that is taken for the end of an answer, because the model hardly ever writes it."""
FUSED = "fuse_mlp_gate_up=true"
ENGINES: dict[str, tuple[str, ...]] = {
    "bfloat16": ("bf16",),
    "bfloat16 fused": ("bf16", FUSED),
    "float16 fused": ("fp16", FUSED),
    "int8 fused": ("int8", FUSED),
    "int4 k_quant_mixed fused": ("int4", FUSED, "algo_config=k_quant_mixed"),
}
GRAPHS = {"enable_cuda_graph": "1"}
RUNS: tuple[tuple[str, dict[str, str], int], ...] = (
    ("bfloat16", {}, 1),
    ("bfloat16", GRAPHS, 1),
    ("bfloat16 fused", {}, 1),
    ("bfloat16 fused", GRAPHS, 1),
    ("bfloat16 fused", {}, 8),
    ("float16 fused", GRAPHS, 1),
    ("int8 fused", {}, 1),
    ("int8 fused", GRAPHS, 1),
    ("int4 k_quant_mixed fused", {}, 1),
    ("int4 k_quant_mixed fused", GRAPHS, 1),
)
"""Engine, options of the CUDA provider, requests at once."""


def build(model: Path, engine: Path, way: Sequence[str]) -> None:
    """Build an engine with the builder's command."""
    precision, *options = way
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", model, "-o", engine]
    command += ["-c", f"{engine}.cache", "-p", precision, "-e", "cuda"]
    command += ["--extra_options", "hf_token=false", "hf_remote=false", *options]
    quiet = {"HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"}
    subprocess.run([str(word) for word in command], env={**os.environ, **quiet}, check=True, capture_output=True)


def genai_rates(engine: Path, options: dict[str, str], rows: int) -> list[float]:
    """Tokens per second of one request, in each repeat. The prompt's time counts."""
    import onnxruntime  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
    import onnxruntime_genai as genai  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

    onnxruntime.preload_dlls()
    config = genai.Config(str(engine))
    config.overlay(json.dumps({"model": {"pad_token_id": -1, "eos_token_id": ENDLESS}}))
    for name, value in options.items():
        config.set_provider_option("cuda", name, value)
    model = genai.Model(config)
    if model.device_type != "CUDA":
        raise RuntimeError(f"the engine runs on {model.device_type}")
    prompts = np.asarray([PROMPT] * rows if rows > 1 else PROMPT, dtype=np.int32)

    def once() -> float:
        started = time.perf_counter()
        parameters = genai.GeneratorParams(model)
        parameters.set_search_options(max_length=len(PROMPT) + TOKENS, batch_size=rows, do_sample=False)
        generator = genai.Generator(model, parameters)
        generator.append_tokens(prompts)
        for _ in range(TOKENS):
            generator.generate_next_token()
            generator.get_next_tokens()
        return TOKENS / (time.perf_counter() - started)

    once()
    return [round(once(), 1) for _ in range(REPEATS)]


def transformers_rates(model: Path, cache: str | None) -> list[float]:
    """The same of transformers in bfloat16. With a static cache it compiles the model."""
    import torch  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
    from transformers import (  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
        AutoModelForCausalLM,
    )

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval().cuda()
    loaded.generation_config.eos_token_id = None
    prompt = torch.tensor([PROMPT]).cuda()
    how = {"cache_implementation": cache} if cache else {}

    def once() -> float:
        torch.cuda.synchronize()
        started = time.perf_counter()
        mask = torch.ones_like(prompt)
        loaded.generate(prompt, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False, pad_token_id=2, **how)
        torch.cuda.synchronize()
        return TOKENS / (time.perf_counter() - started)

    for _ in range(3 if cache else 1):
        once()
    return [round(once(), 1) for _ in range(REPEATS)]


def apart(function: Any, *arguments: Any) -> list[float]:
    """Call a function in a process of its own, which frees the GPU at its end."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        rates: list[float] = pool.apply(function, arguments)
        return rates


def row(name: str, rates: list[float], **more: Any) -> dict[str, Any]:
    """One line of the result."""
    found = {"name": name, **more, "tokens_per_second": round(statistics.median(rates), 1), "repeats": rates}
    print(json.dumps(found), flush=True)
    return found


def main() -> None:
    """Measure everything, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("result", type=Path)
    settings = parser.parse_args()
    with TemporaryDirectory(prefix="decoding-") as scratch:
        engines = {name: Path(scratch) / name.replace(" ", "-") for name in ENGINES}
        for name, engine in engines.items():
            build(settings.model, engine, ENGINES[name])
        compiled = [row("transformers, static cache, compiled", apart(transformers_rates, settings.model, "static"))]
        rows = [row("transformers", apart(transformers_rates, settings.model, None))]
        for name, options, at_once in RUNS:
            rates = apart(genai_rates, engines[name], options, at_once)
            rows.append(row(name, rates, provider_options=options, requests_at_once=at_once))
        compiled.append(
            row("transformers, static cache, compiled", apart(transformers_rates, settings.model, "static"))
        )
    result = {"command": "benchmarks/decoding.py MODEL RESULT", "tokens": TOKENS, "rows": [*compiled, *rows]}
    settings.result.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Measures how fast an engine of ONNX Runtime GenAI is: see `bench_common.py`.

The requests are `{"threads": 1, "settings": {…}}`. The engine runs as it is served: on this number of threads, which
sleep while they wait. Any problem ends it with a traceback and a nonzero status, without an output file.
"""

import argparse
import importlib.metadata
import itertools
import json
import time
from pathlib import Path
from typing import Any

import bench_common  # type: ignore[import-not-found,unused-ignore]  # beside it
import numpy as np
import onnxruntime_genai as genai  # type: ignore[import-not-found,unused-ignore]  # of the toolchain
from answer_prompts import (  # type: ignore[import-not-found,unused-ignore]  # beside it
    GREEDY,
    NO_TOKEN,
    is_for_cuda,
    load_model,
)


def load(directory: Path, described: dict[str, Any], threads: int) -> Any:
    """Load an engine as it is served.

    Raises:
        RuntimeError: when an engine for a GPU runs on something else.
    """
    config = genai.Config(str(directory))
    session: dict[str, Any] = {"session.intra_op.allow_spinning": "0"}
    if threads:
        session["intra_op_num_threads"] = threads
    config.overlay(json.dumps({"model": {"pad_token_id": NO_TOKEN, "decoder": {"session_options": session}}}))
    return load_model(config, wanted="CUDA" if is_for_cuda(described) else "CPU")


def engine(model: Any, shortest_cache: int) -> bench_common.Engine:
    """The engine as a function that is timed. It makes all tokens, whatever they are: none ends an answer."""

    def run(prompts: list[list[int]], output_tokens: int) -> bench_common.Run:
        length = len(prompts[0]) + output_tokens
        options = {**GREEDY, "min_length": length, "batch_size": len(prompts)}
        started = time.perf_counter()
        parameters = genai.GeneratorParams(model)
        parameters.set_search_options(max_length=max(length, shortest_cache), **options)
        generator = genai.Generator(model, parameters)
        generator.append_tokens(np.asarray(prompts if len(prompts) > 1 else prompts[0], dtype=np.int32))
        moments = []
        for _ in range(output_tokens):
            generator.generate_next_token()
            generator.get_next_tokens()  # waits for a GPU
            moments.append(time.perf_counter() - started)
        gaps = [after - before for before, after in itertools.pairwise(moments)]
        return bench_common.Run(moments[0], gaps or moments, moments[-1], output_tokens * len(prompts))

    return run


def main() -> None:
    """Read the requests, load the engine, measure, write what was measured."""
    parser = argparse.ArgumentParser(description="Measure how fast an engine is.")
    parser.add_argument("--engine", type=Path, required=True, help="the engine's directory")
    parser.add_argument("--tokenizer", type=Path, required=True, help="the model's directory, for its tokens")
    parser.add_argument("--requests", type=Path, required=True, help="JSON file with the settings")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    requests = json.loads(arguments.requests.read_text(encoding="utf-8"))
    described = bench_common.read_json(arguments.engine / "genai_config.json")["model"]
    gauges = bench_common.Gauges(on_gpu=is_for_cuda(described))
    settings, notes = bench_common.fitting(requests["settings"], described["context_length"])
    tokens = bench_common.usable_tokens(arguments.engine, arguments.tokenizer)
    started = time.perf_counter()
    loaded = load(arguments.engine, described, requests["threads"])
    seconds = time.perf_counter() - started
    run = engine(loaded, described["decoder"].get("sliding_window", {}).get("window_size", 0))
    loads = bench_common.measure(run, tokens, settings, gauges)
    release = importlib.metadata.version(genai_package())
    facts = {"runtime": "onnxruntime-genai", "release": release, "load_seconds": seconds}
    result = bench_common.written(loads, settings, gauges, notes, **facts)
    arguments.output.write_text(json.dumps(result, indent=1), encoding="utf-8")


def genai_package() -> str:
    """The package that the library is installed from: it has another name for each kind of hardware."""
    names = importlib.metadata.packages_distributions().get("onnxruntime_genai", [])
    return next(iter(names), "onnxruntime-genai")


if __name__ == "__main__":
    main()

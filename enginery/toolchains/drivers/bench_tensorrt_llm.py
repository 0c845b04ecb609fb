"""Measures how fast a model of TensorRT-LLM is: see `bench_common.py`.

The requests are `{"runtime": "tensorrt_llm:LLM", "arguments": {}, "settings": {…}}`. The runtime is a model runner,
started once for each rank by `mpirun`, or an `LLM`, which starts its ranks itself. An `LLM` gives its tokens one by
one. A model runner does not in all releases, so its prefill is measured with one token, and the rest by the difference.
Rank 0 writes what was measured. Any problem ends it with a traceback and a nonzero status, without an output file.
"""

import argparse
import importlib
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_common  # type: ignore[import-not-found,unused-ignore]  # beside it

RUNNERS = ("ModelRunnerCpp", "ModelRunner")
Engine = Callable[[list[list[int]], int], Any]
"""Takes prompts as tokens, and how many tokens to make for each; see `bench_common.Run`."""
NO_END = -1
"""No token has this number, so that none ends an answer."""


def load(requests: dict[str, Any], model: Path, tokenizer: Path, settings: Any, tokens: list[int]) -> Engine:
    """Load the model as it is validated."""
    module, _, name = requests["runtime"].partition(":")
    if name in RUNNERS:
        return load_runner(module, name, model, settings, tokens[0])
    return load_llm(module, name, model, tokenizer, requests["arguments"])


def load_runner(module: str, name: str, model: Path, settings: Any, filler: int) -> Engine:
    """Load an engine directory with a model runner, as the release's `examples/run.py` does. Every rank does this."""
    import tensorrt_llm  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415  of the toolchain, as torch
    import torch  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

    found = importlib.import_module(module)
    named: dict[str, Any] = {"engine_dir": str(model), "rank": tensorrt_llm.mpi_rank()}
    if name == "ModelRunnerCpp" and not getattr(found, "PYTHON_BINDINGS", True):
        name = "ModelRunner"  # this build of TensorRT-LLM has no session in C++
    if name == "ModelRunnerCpp":
        named |= {"max_batch_size": max(settings.concurrency), "max_beam_width": 1}
        named |= {"max_input_len": settings.prompt_tokens, "max_output_len": settings.output_tokens}
    runner = getattr(found, name).from_dir(**named)

    def generate(prompts: list[list[int]], tokens: int) -> tuple[float, int]:
        """The seconds that it took, and how many tokens each answer has. Only rank 0 knows the latter."""
        inputs = [torch.tensor(prompt, dtype=torch.int32) for prompt in prompts]
        started = time.perf_counter()
        with torch.no_grad():
            outputs = runner.generate(
                inputs,
                max_new_tokens=tokens,
                end_id=NO_END,
                pad_id=filler,
                temperature=1.0,
                top_k=1,
                top_p=0.0,
                num_beams=1,
                output_sequence_lengths=True,
                return_dict=True,
            )
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        if tensorrt_llm.mpi_rank() != 0:
            return seconds, tokens
        return seconds, min(int(length[0]) for length in outputs["sequence_lengths"]) - len(prompts[0])

    def run(prompts: list[list[int]], output_tokens: int) -> Any:
        (first, _), (whole, made) = generate(prompts, 1), generate(prompts, output_tokens)
        if made <= 1:
            raise ValueError(f"the engine ends its answers after {made} tokens, although none is an end")
        return bench_common.Run(first, [max(whole - first, 0.0) / (made - 1)], whole, made * len(prompts))

    return run


def load_llm(module: str, name: str, model: Path, tokenizer: Path, arguments: dict[str, Any]) -> Engine:
    """Load an engine directory or a checkpoint with the LLM API."""
    found = importlib.import_module(module)
    parameters = importlib.import_module("tensorrt_llm").SamplingParams
    llm = getattr(found, name)(model=str(model), tokenizer=str(tokenizer), **arguments)

    def run(prompts: list[list[int]], output_tokens: int) -> Any:
        wanted = parameters(max_tokens=output_tokens, top_k=1, ignore_eos=True)
        started = time.perf_counter()
        answers = [llm.generate_async(prompt, wanted, streaming=True) for prompt in prompts]
        # All sequences get their tokens in the same steps of the engine, so the last one to begin shows the steps.
        steps = [(time.perf_counter() - started, len(step.outputs[0].token_ids)) for step in answers[-1]]
        tokens = sum(len(answer.result().outputs[0].token_ids) for answer in answers)
        seconds = time.perf_counter() - started
        pairs = itertools.pairwise(steps)
        gaps = [(now - then) / (after - before) for (then, before), (now, after) in pairs if after > before]
        if not gaps:
            raise ValueError(f"the model gives no single tokens: {len(steps)} pieces for {output_tokens} tokens")
        return bench_common.Run(steps[0][0], gaps, seconds, tokens)

    return run


def longest_sequence(model: Path) -> tuple[int, int]:
    """The most tokens of a prompt with its answer, and of a prompt alone; 0 if nothing says so."""
    config = bench_common.read_json(model / "config.json")
    built = config.get("build_config", {})
    prompt = built.get("max_input_len") or 0
    both = prompt + built["max_output_len"] if built.get("max_output_len") else 0
    return int(built.get("max_seq_len") or both or config.get("max_position_embeddings") or 0), int(prompt)


def require_batches(model: Path, settings: dict[str, Any]) -> None:
    """Say in figures what the runtime would say with an assertion.

    Raises:
        ValueError: when the engine takes fewer sequences at once than are to be measured.
    """
    most = bench_common.read_json(model / "config.json").get("build_config", {}).get("max_batch_size")
    if most and max(settings["concurrency"]) > most:
        raise ValueError(
            f"concurrency {max(settings['concurrency'])} is to be measured and the engine takes {most} sequences at"
            " once: lower validation.gates.speed.concurrency, or raise build.max_batch_size"
        )


def same_for_all_ranks(choice: bool) -> bool:  # noqa: FBT001  the shape of `Agree`
    """The choice of rank 0."""
    return bool(importlib.import_module("mpi4py.MPI").COMM_WORLD.bcast(choice, root=0))


def main() -> None:
    """Read the requests, load the model, measure, write what was measured."""
    parser = argparse.ArgumentParser(description="Measure how fast a model of TensorRT-LLM is.")
    parser.add_argument("--engine", type=Path, required=True, help="the engine's or the checkpoint's directory")
    parser.add_argument("--tokenizer", type=Path, required=True, help="the model's directory, for its tokens")
    parser.add_argument("--requests", type=Path, required=True, help="JSON file with runtime and settings")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    given = parser.parse_args()
    requests = json.loads(given.requests.read_text(encoding="utf-8"))
    gauges = bench_common.Gauges()
    require_batches(given.engine, requests["settings"])
    settings, notes = bench_common.fitting(requests["settings"], *longest_sequence(given.engine))
    tokens = bench_common.usable_tokens(given.engine, given.tokenizer)
    started = time.perf_counter()
    engine = load(requests, given.engine, given.tokenizer, settings, tokens)
    seconds = time.perf_counter() - started
    library = importlib.import_module("tensorrt_llm")
    several = requests["by_rank"] and library.mpi_world_size() > 1
    of_ranks = {"agree": same_for_all_ranks} if several else {}
    loads = bench_common.measure(engine, tokens, settings, gauges, **of_ranks)
    if library.mpi_rank() == 0:
        facts = {"runtime": requests["runtime"], "release": library.__version__, "load_seconds": seconds}
        result = bench_common.written(loads, settings, gauges, notes, **facts)
        given.output.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

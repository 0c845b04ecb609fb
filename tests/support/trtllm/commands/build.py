"""`trtllm-build`: checks a checkpoint like the real one, and writes an engine directory with the release's layout."""

import json
from pathlib import Path
from typing import Any

from enginery.releases.models import architectures
from tests.support.trtllm import facts, home
from tests.support.trtllm.commands import build_config as fields
from tests.support.trtllm.commands.command import Run
from tests.support.trtllm.files import checkpoint, timing_cache
from tests.support.trtllm.files.engine import RankEngine
from tests.support.trtllm.files.tensor_names import check_names

DTYPES = {"float16", "bfloat16", "float32"}


def run(run: Run) -> None:
    arguments = run.arguments
    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    gpus = run.home.visible_gpus()
    if not gpus:
        raise RuntimeError("No CUDA GPUs are available")
    pretrained = read_checkpoint(run)
    made = fields.build_config(run.release, arguments, pretrained)
    given = run.given("input_timing_cache") or run.given("timing_cache")
    cache = timing_cache.load(_existing_in_0_8(run, given), run.home.tensorrt)
    check(run, pretrained)
    engine_config = {"version": run.release, "pretrained_config": pretrained, "build_config": made}
    (output / "config.json").write_text(json.dumps(engine_config, indent=4), encoding="utf-8")
    run.ways.during()
    timed = set(cache.timed)
    for rank in range(pretrained["mapping"]["world_size"]):
        timed.add(build_rank(run, rank, output, gpus[rank % len(gpus)]["compute_cap"], known=cache.timed))
    if facts.at_least(run.release, "0.9.0"):
        path = Path(arguments.output_timing_cache)
        timing_cache.TimingCache(run.home.tensorrt, frozenset(timed)).write(path)
        home.log(f"Timing cache serialized to {path}")
    run.ways.spoil(output)
    home.log("Total time of building all engines: 00:00:01")


def _existing_in_0_8(run: Run, given: Any) -> str | None:
    """The timing cache to read. 0.8 has a default path for it, and that file need not exist."""
    if given is None or (not facts.at_least(run.release, "0.9.0") and not Path(given).exists()):
        return None
    return str(given)


def read_checkpoint(run: Run) -> dict[str, Any]:
    """The checkpoint's `config.json`, with the values of the flags that override its fields."""
    source = run.arguments.checkpoint_dir or run.arguments.model_config
    if source is None:
        raise AttributeError("'NoneType' object has no attribute 'lower'")
    if run.arguments.checkpoint_dir is None or source.lower().endswith(".json"):
        raise NotImplementedError("the stand-in builds from the weights of a checkpoint only")
    found: dict[str, Any] = json.loads(Path(source, "config.json").read_text(encoding="utf-8"))
    if run.given("logits_dtype"):
        found["logits_dtype"] = run.given("logits_dtype")
    return found


def check(run: Run, pretrained: dict[str, Any]) -> None:
    """Make the checks that the real one makes before it builds."""
    known, architecture = architectures(run.release).value, pretrained["architecture"]
    assert architecture in known, f"Unsupported model architecture: {architecture}"
    chosen, dtype = run.given("gpt_attention_plugin"), pretrained["dtype"]
    if chosen in DTYPES and chosen != dtype:
        text = (
            f"Error Code 4: Internal Error (plugin GPTAttention of type {chosen} does not take inputs of type {dtype})"
        )
        home.log(f"[network.cpp::validate] {text}", "E", "TRT")
        raise AssertionError("Engine building failed, please check error log.")


def build_rank(run: Run, rank: int, output: Path, compute_cap: str, known: frozenset[str]) -> str:
    """Build one rank's engine. Returns the digest of its weights, which the timing cache records."""
    weights = Path(run.arguments.checkpoint_dir, f"rank{rank}.safetensors")
    if not facts.at_least(run.release, "0.9.0") and not weights.exists():
        raise FileNotFoundError(f'No such file or directory: "{weights}"')
    assert weights.is_file()
    check_names(weights, output)
    digest = checkpoint.digest(weights)
    home.warn("UserWarning: TypedStorage is deprecated. It will be removed in the future")
    layers = "0 new layers timed" if digest in known else "68 new layers timed"
    home.log(f"Engine generation completed in 0.1 seconds, {layers}.", "I", "TRT")
    RankEngine(rank, digest, run.release, run.home.tensorrt, compute_cap).write(output / f"rank{rank}.engine")
    home.log(f"Engine serialized to {output / f'rank{rank}.engine'}...")
    return digest

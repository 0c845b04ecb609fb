"""The step that measures how fast an engine is. It runs alone on the machine.

A driver (a script of Enginery) runs in the backend's toolchain. It is started several times, because one start can be
some percent faster than the next without any reason that can be seen. A start during which other programs slowed down
the machine is repeated, up to a limit.
"""

import json
import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import NamedTuple

from pydantic import JsonValue

from enginery.backends.bench.figures import Start, are_precise, load_speeds, quiet_starts
from enginery.backends.runtimes import Kind, launch_words, runtime_for
from enginery.backends.validate import OFFLINE
from enginery.builds import SPEED_FILE, Machine, SpeedReport, SpeedSettings
from enginery.core.digests import json_digest
from enginery.core.errors import UsageError
from enginery.core.files import write_atomic
from enginery.core.progress import Facts
from enginery.spec import SpeedGate
from enginery.store import Call, Stage, StepContext
from enginery.toolchains import ANSWER_PROMPTS, BENCH_COMMON, BENCH_ONNX, BENCH_TENSORRT_LLM, driver_sha256

FUNCTION_VERSION = 1
ONNXRUNTIME = "onnxruntime"
TENSORRT_LLM = "tensorrt_llm"
DRIVERS = {ONNXRUNTIME: (BENCH_ONNX, BENCH_COMMON, ANSWER_PROMPTS), TENSORRT_LLM: (BENCH_TENSORRT_LLM, BENCH_COMMON)}
"""The scripts of each driver, first the one that is started."""

STARTS = 5
"""How many starts are enough if they are quiet, and differ little. Five tell 10% from nothing (docs/trust.md)."""
MOST_STARTS = 10
FEWEST_STARTS = 2
PATIENCE_SECONDS = 60.0
"""No further start begins after this time, once there are two quiet ones: loading a large model takes minutes."""
LONGEST_SECONDS = 180.0
"""And none after this time, quiet or not, once there are two."""
SECONDS_OF_A_START = 4.0
"""How long a start repeats its measurements."""
SHARE_OF_BUILD = 0.15
"""Within a build, a measurement takes at most about this part of the time that making the engine took; twice as much if
it is disturbed."""
FEWEST_SECONDS = 1.0
"""But it gets so long, however fast the build was."""
SHORTEST_START = 0.25

MEASURING: Mapping[str, JsonValue] = MappingProxyType(
    {"repeats": 12, "most_repeats": 150, "precision": 0.01, "spread": 0.1, "most_warm_ups": 12}
)
"""How the driver repeats, besides `seconds`; see `Settings` in `drivers/bench_common.py`."""
ENVIRONMENT = {**OFFLINE, "OPENBLAS_NUM_THREADS": "1"}
"""The fixed work that shows the machine's own speed is to run on one thread."""


def bench_call(
    options: SpeedGate,
    kind: Kind | None = None,
    release: str = "",
    world_size: int = 1,
    arguments: Mapping[str, JsonValue] = MappingProxyType({}),
) -> Call:
    """The recipe of a measurement. Limits are no part of it: a change of a limit measures nothing again.

    Args:
        options: the spec's `validation.gates.speed`.
        kind: what TensorRT-LLM runs, an engine or a checkpoint; None if ONNX Runtime runs the model.
        release: the release of TensorRT-LLM.
        world_size: how many GPUs the model uses.
        arguments: the arguments of the LLM API.

    Raises:
        UsageError: when the release cannot run this kind of model.
    """
    how: dict[str, JsonValue] = {"driver": ONNXRUNTIME}
    if kind is not None:
        runtime = runtime_for(kind, release)
        how = {
            "driver": TENSORRT_LLM,
            "release": release,
            "world_size": world_size,
            "runtime": runtime.name,
            "by_rank": runtime.by_rank,
            "arguments": {**runtime.arguments, **arguments},
        }
    details = options.model_dump(mode="json", include={"concurrency", "prompt_tokens", "output_tokens"})
    digest = drivers_sha256(str(how["driver"]))
    return Call(function="bench", version=FUNCTION_VERSION, parameters={**details, **how, "drivers_sha256": digest})


def drivers_sha256(driver: str) -> str:
    """The digest of all scripts of a driver."""
    return json_digest([driver_sha256(script) for script in DRIVERS[driver]])


def bench_step(context: StepContext) -> Facts:
    """Measure the engine and write `bench.json` to the output. The step function `bench`.

    The inputs are `weights` (for the tokens) and `engine` or `checkpoint`. Without the last two the weights themselves
    are run.

    Raises:
        CommandError: when the engine cannot be loaded or fails.
        UsageError: when the plan was made with another version of the drivers.
    """
    driver = str(context.parameters.get("driver"))
    remedy = "make the plan again with this version"
    if driver not in DRIVERS or context.parameters.get("drivers_sha256") != drivers_sha256(driver):
        raise UsageError("the plan was made with another version of Enginery's measurement", remedy=remedy)
    if context.toolchain is None:
        raise UsageError("a measurement needs a toolchain", remedy=remedy)
    load = os.getloadavg()[0]
    report = _report(context, _starts(context, driver), load)
    write_atomic(context.output / SPEED_FILE, report.model_dump_json(indent=1) + "\n")
    for note in report.notes:
        context.log(note)
    first = report.loads[0]
    return {
        "concurrency": first.concurrency,
        "first_ms": first.first_ms.median,
        "gap_ms": first.gap_ms.median,
        "tokens_per_second": first.tokens_per_second.median,
        "disturbed": report.disturbed,
    }


def default_threads() -> int:
    """The threads of an engine on a CPU when it is served (`triton/models/generation.py`): half of the CPUs."""
    return max(1, len(os.sched_getaffinity(0)) // 2)


class Patience(NamedTuple):
    """How long a measurement may take, in seconds.

    Attributes:
        quiet: no further start begins after this time, once there are two quiet ones.
        disturbed: and none after this time, quiet or not, once there are two.
        each: how long a start repeats its measurements.
    """

    quiet: float = PATIENCE_SECONDS
    disturbed: float = LONGEST_SECONDS
    each: float = SECONDS_OF_A_START

    def is_over(self, seconds: float, *, quiet: bool) -> bool:
        """Whether no further start may begin."""
        return seconds > (self.quiet if quiet else self.disturbed)


def patience_of(making: float) -> Patience:
    """How long a measurement may take.

    Fewer and shorter starts make a wider interval: the gate is then inconclusive rather than wrong.

    Args:
        making: the seconds that it took to make the engine; 0 by hand, or for a model that is run as it is.
    """
    if not making:
        return Patience()
    share = max(FEWEST_SECONDS, SHARE_OF_BUILD * making)
    each = max(SHORTEST_START, share / STARTS)
    return Patience(min(PATIENCE_SECONDS, share), min(LONGEST_SECONDS, 2 * share), min(SECONDS_OF_A_START, each))


def _making_seconds(context: StepContext) -> float:
    """The seconds that it took to make the engine; 0 without a build."""
    return sum(record.seconds for record in context.chain if record.step.stage in {Stage.CONVERT, Stage.BUILD})


def _starts(context: StepContext, driver: str) -> list[Start]:
    """Start the driver until enough starts were quiet, or it takes too long."""
    starts: list[Start] = []
    patience = patience_of(_making_seconds(context))
    began = time.monotonic()
    while len(starts) < MOST_STARTS:
        starts.append(_start(context, driver, patience.each))
        seconds, quiet = time.monotonic() - began, quiet_starts(starts)
        if len(starts) < FEWEST_STARTS:
            continue
        enough = len(quiet) >= STARTS and are_precise(quiet)
        if enough or patience.is_over(seconds, quiet=len(quiet) >= FEWEST_STARTS):
            break
    return starts


def _start(context: StepContext, driver: str, seconds: float) -> Start:
    """Start the driver once."""
    assert context.toolchain is not None  # noqa: S101  the caller has checked
    recipe = context.parameters
    names = ("concurrency", "prompt_tokens", "output_tokens")
    requests: dict[str, JsonValue] = {
        "settings": {"seconds": seconds, **MEASURING, **{name: recipe[name] for name in names}}
    }
    first: tuple[str, ...] = ()
    if driver == TENSORRT_LLM:
        environment = context.toolchain.environment
        first = launch_words(int(str(recipe["world_size"])), environment, by_rank=bool(recipe["by_rank"]))
        requests |= {name: recipe[name] for name in ("runtime", "arguments", "by_rank")}
    else:
        requests["threads"] = default_threads()
    # The directory is beside the output, because commands of every kind of toolchain can read and write there.
    with TemporaryDirectory(prefix="bench-", dir=context.output.parent) as scratch:
        asked, output = Path(scratch) / "requests.json", Path(scratch) / "measured.json"
        write_atomic(asked, json.dumps(requests))
        model = next(context.inputs[name] for name in ("engine", "checkpoint", "weights") if name in context.inputs)
        places = ("--engine", model, "--tokenizer", context.inputs["weights"])
        files = ("--requests", asked, "--output", output)
        command = (*first, context.toolchain.python, DRIVERS[driver][0], *places, *files)
        context.run([str(word) for word in command], ENVIRONMENT)
        return Start.model_validate_json(output.read_bytes())


def _report(context: StepContext, starts: list[Start], load: float) -> SpeedReport:
    quiet = quiet_starts(starts)
    disturbed = len(quiet) < FEWEST_STARTS
    counted = starts if disturbed else quiet
    one = starts[0]
    gpu_bytes = [start.peak_gpu_bytes for start in starts if start.peak_gpu_bytes is not None]
    watts = [start.watts for start in starts if start.watts is not None]
    host_bytes = [*(start.peak_host_bytes for start in starts), *(done.peak_memory_bytes for done in context.completed)]
    threads = default_threads() if context.parameters["driver"] == ONNXRUNTIME else 0
    return SpeedReport(
        machine=Machine.this(load, one.gpus, one.driver),
        settings=SpeedSettings(
            **one.settings.model_dump(),
            runtime=one.runtime,
            release=one.release,
            threads=threads,
            world_size=int(str(context.parameters.get("world_size", 1))),
        ),
        loads=load_speeds(starts, counted),
        load_seconds=round(statistics.median(start.load_seconds for start in starts), 3),
        peak_host_bytes=max(host_bytes),
        peak_gpu_bytes=max(gpu_bytes, default=None),
        watts=round(statistics.median(watts), 1) if watts else None,
        disturbed=disturbed,
        neighbours=context.neighbours,
        notes=one.notes,
    )

"""Measures how fast an engine is: what the drivers `bench_onnx.py` and `bench_tensorrt_llm.py` have in common.

Runs in the release's own environment and needs nothing of Enginery's. An engine is a function that takes a batch of
prompts and says when each of its tokens came. It is run until it is warm. Then it is measured several times, all
batch sizes in turn, so that a change of the machine's speed meets all of them.
"""

import ctypes
import json
import os
import random
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SEED = 20260101
"""Prompts are random, but the same in each measurement."""
WARM_RUNS = 3
"""An engine is warm when so many runs, one after the other, took about the same time."""
MATRIX = 192
"""The size of the matrices of the fixed work that shows how fast the machine is at this moment."""
PRODUCTS = 6
QUIET = 1.08
"""A repeat is quiet if the fixed work before and after it took at most so many times its shortest time."""
SWITCHES_PER_SECOND = 10
"""And if the kernel took the CPU away from this process no more often. Each time costs milliseconds."""


class Run(NamedTuple):
    """One run of a batch of prompts.

    Attributes:
        first: seconds until each sequence has its first token.
        gaps: seconds between tokens; with a runtime that gives no single tokens, their mean alone.
        seconds: until all tokens are there.
        tokens: how many there are, in all sequences together.
    """

    first: float
    gaps: list[float]
    seconds: float
    tokens: int


Engine = Callable[[list[list[int]], int], Run]
"""Takes prompts as tokens, and how many tokens to make for each."""

Agree = Callable[[bool], bool]
"""Gives all ranks the answer of the first: each must run the engine as often as the others."""


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        concurrency: the batch sizes.
        repeats: how many quiet repeats of each batch size are enough, if they are precise.
        most_repeats: the largest number of repeats of each.
        precision: repeats end when half the confidence interval of each time is below this share of it.
        spread: warming up ends when the last runs differ by less than this share.
        most_warm_ups: or after this number of runs.
        seconds: no repeat begins after this time.
    """

    prompt_tokens: int
    output_tokens: int
    concurrency: list[int]
    repeats: int
    most_repeats: int
    precision: float
    spread: float
    most_warm_ups: int
    seconds: float


@dataclass
class Load:
    """The measurements of one batch size."""

    concurrency: int
    warm_ups: int = 0
    stable: bool = False
    repeats: list[dict[str, float]] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    def quiet(self, fastest: float) -> list[dict[str, float]]:
        """The repeats during which nothing seems to have slowed down the machine."""
        return [
            one
            for one in self.repeats
            if one["slowest_machine_ms"] <= QUIET * fastest and one["switches_per_second"] <= SWITCHES_PER_SECOND
        ]

    def enough(self, settings: Settings, fastest: float) -> bool:
        """Whether more repeats are not needed."""
        quiet = self.quiet(fastest)
        return len(quiet) >= settings.repeats and precise(quiet, settings.precision)


class Prompts:
    """Random prompts of tokens that are neither special nor ends. No prompt comes twice: runtimes remember prompts."""

    def __init__(self, tokens: list[int], length: int) -> None:
        self._tokens, self._length = tokens, length
        self._random = random.Random(SEED)  # noqa: S311  a sample, no secret

    def batch(self, size: int) -> list[list[int]]:
        """The next prompts."""
        return [self._random.choices(self._tokens, k=self._length) for _ in range(size)]


def usable_tokens(*models: Path) -> list[int]:
    """The tokens of a model that are neither special nor name an end, as the files in its directories say.

    Raises:
        ValueError: when nothing says how many tokens the model knows.
    """
    sizes, special = [], set()
    for model in models:
        added = read_json(model / "tokenizer.json").get("added_tokens", [])
        special |= {token["id"] for token in added if token.get("special")}
        for described in (*configurations(model), read_json(model / "generation_config.json")):
            sizes.append(described.get("vocab_size"))
            for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
                value = described.get(name)
                special |= set(value) if isinstance(value, list) else {value}
    known = [size for size in sizes if size]
    if not known:
        raise ValueError(f"no configuration in {' or '.join(map(str, models))} says vocab_size")
    return [token for token in range(min(known)) if token not in special]


def configurations(model: Path) -> Iterator[dict[str, Any]]:
    """What may say how many tokens a model knows, in the files of all kinds of engines and checkpoints."""
    config = read_json(model / "config.json")
    yield config
    yield config.get("pretrained_config", {})
    yield config.get("text_config", {})
    yield read_json(model / "genai_config.json").get("model", {})


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty without the file."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def fitting(settings: dict[str, Any], longest: int, longest_prompt: int = 0) -> tuple[Settings, list[str]]:
    """The settings, with fewer tokens where the engine cannot take so many.

    Args:
        settings: as they were asked for.
        longest: tokens that a prompt and its answer may have together; 0 if nothing says so.
        longest_prompt: tokens that a prompt may have; 0 if nothing says so.

    Raises:
        ValueError: when there is no room for a prompt and two tokens.
    """
    asked = (settings["prompt_tokens"], settings["output_tokens"])
    prompt, output = min(asked[0], longest_prompt or asked[0]), asked[1]
    if longest and prompt + output > longest:
        output = max(2, min(output, longest // 3))
        prompt = min(prompt, longest - output)
    if prompt < 1:
        raise ValueError(f"an engine for {longest} tokens has no room for a prompt and two tokens")
    made = Settings(**{**settings, "prompt_tokens": prompt, "output_tokens": output})
    if asked == (prompt, output):
        return made, []
    return made, [f"the engine does not take {asked[0]} and {asked[1]} tokens: measured with {prompt} and {output}"]


def measure(
    engine: Engine, tokens: list[int], settings: Settings, gauges: "Gauges", agree: Agree = lambda choice: choice
) -> list[Load]:
    """Warm up, then measure all batch sizes in turn until the figures are precise enough; prompts are of `tokens`."""
    prompts = Prompts(tokens, settings.prompt_tokens)
    loads = [Load(size) for size in settings.concurrency]
    for load in loads:
        warm_up(engine, prompts, load, settings, agree)
        print(f"warm after {load.warm_ups} runs of {load.concurrency} sequences", flush=True)  # noqa: T201
    started, machine = time.perf_counter(), machine_seconds()
    fastest = machine
    for number in range(1, settings.most_repeats + 1):
        for load in loads:
            before, switches, batch = machine, lost_cpu(), prompts.batch(load.concurrency)
            run = engine(batch, settings.output_tokens)
            switches = lost_cpu() - switches
            machine = machine_seconds()
            gauges.read()
            fastest = min(fastest, machine)
            keep(load, run, settings, (before, machine), switches)
        enough = all(load.enough(settings, 1000 * fastest) for load in loads)
        late = time.perf_counter() - started > settings.seconds and number > 1
        if agree(enough or late):
            break
    return loads


def warm_up(engine: Engine, prompts: Prompts, load: Load, settings: Settings, agree: Agree) -> None:
    """Run until the last runs took about the same time, or it has been tried often enough."""
    seconds: list[float] = []
    while len(seconds) < settings.most_warm_ups and not load.stable:
        seconds.append(engine(prompts.batch(load.concurrency), settings.output_tokens).seconds)
        last = seconds[-WARM_RUNS:]
        load.stable = agree(len(last) == WARM_RUNS and max(last) - min(last) <= settings.spread * min(last))
    load.warm_ups = len(seconds)


def lost_cpu() -> int:
    """How often the kernel has taken the CPU away from this process, to let another one run."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def keep(load: Load, run: Run, settings: Settings, machine: tuple[float, float], switches: int) -> None:
    """Add a repeat to the measurements.

    Args:
        load: the measurements.
        run: the new one.
        settings: what is measured.
        machine: how long the fixed work took before and after it.
        switches: how often the process lost the CPU during it.
    """
    load.gaps += run.gaps
    load.repeats.append(
        {
            "first_ms": 1000 * run.first,
            "gap_ms": 1000 * statistics.median(run.gaps),
            "tokens_per_second": run.tokens / run.seconds,
            "prefill_tokens_per_second": load.concurrency * settings.prompt_tokens / run.first,
            "machine_ms": 500 * sum(machine),
            "slowest_machine_ms": 1000 * max(machine),
            "switches_per_second": switches / run.seconds,
        }
    )


def machine_seconds() -> float:
    """How long a fixed piece of work takes: some products of matrices, on one thread of this process."""
    started = time.perf_counter()
    for _ in range(PRODUCTS):
        FIXED.dot(FIXED)
    return time.perf_counter() - started


FIXED = np.random.default_rng(SEED).standard_normal((MATRIX, MATRIX)).astype(np.float32)


def precise(repeats: list[dict[str, float]], wanted: float) -> bool:
    """Whether half the confidence interval of both times is small enough, by the spread of the repeats."""
    for name in ("first_ms", "gap_ms"):
        values = [one[name] for one in repeats]
        error = 1.253 * 1.96 * deviation(values) / len(values) ** 0.5  # of a median
        if error > wanted * statistics.median(values):
            return False
    return True


def deviation(values: list[float]) -> float:
    """The standard deviation, from the median distance to the median: one disturbed repeat does not count."""
    middle = statistics.median(values)
    return 1.4826 * statistics.median(abs(value - middle) for value in values)


def percentile(values: list[float], percent: float) -> float:
    """The value below which this percentage of the values is."""
    return float(np.percentile(np.asarray(values), percent))


class Gauges:
    """Memory and power of the GPUs, read through NVIDIA's management library; nothing for an engine on a CPU.

    Power is the mean of about the last second, as the library gives it. Memory is that of the whole GPU, less what was
    used before the engine was loaded.
    """

    def __init__(self, *, on_gpu: bool = True) -> None:
        self._library: Any = load_nvml() if on_gpu else None
        self._devices = list(self._visible()) if self._library else []
        self._before = sum(map(self._memory, self._devices))
        self.peak_bytes: int | None = None
        self.watts: list[float] = []

    def read(self) -> None:
        """Read all gauges once."""
        if not self._devices:
            return
        self.peak_bytes = max(self.peak_bytes or 0, sum(map(self._memory, self._devices)) - self._before)
        watts = [watt for device in self._devices if (watt := self._power(device)) is not None]
        self.watts += [sum(watts)] if watts else []

    def facts(self) -> dict[str, Any]:
        """The names of the GPUs and the driver's version."""
        if self._library is None:
            return {"gpus": [], "driver": ""}
        version = ctypes.create_string_buffer(80)
        self._library.nvmlSystemGetDriverVersion(version, len(version))
        return {"gpus": [self._name(device) for device in self._devices], "driver": version.value.decode()}

    def _visible(self) -> Iterator[ctypes.c_void_p]:
        count = ctypes.c_uint()
        self._library.nvmlDeviceGetCount_v2(ctypes.byref(count))
        chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = [str(index) for index in range(count.value)] if chosen is None else chosen.split(",")
        for name in filter(None, map(str.strip, names)):
            device = ctypes.c_void_p()
            if name.isdecimal():
                failed = self._library.nvmlDeviceGetHandleByIndex_v2(int(name), ctypes.byref(device))
            else:
                failed = self._library.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(device))
            if not failed:
                yield device

    def _memory(self, device: ctypes.c_void_p) -> int:
        found = (ctypes.c_ulonglong * 3)()  # total, free, used
        return 0 if self._library.nvmlDeviceGetMemoryInfo(device, ctypes.byref(found)) else int(found[2])

    def _power(self, device: ctypes.c_void_p) -> float | None:
        milliwatts = ctypes.c_uint()
        failed = self._library.nvmlDeviceGetPowerUsage(device, ctypes.byref(milliwatts))
        return None if failed else milliwatts.value / 1000

    def _name(self, device: ctypes.c_void_p) -> str:
        name = ctypes.create_string_buffer(96)
        self._library.nvmlDeviceGetName(device, name, len(name))
        return name.value.decode()


def load_nvml() -> Any:
    """NVIDIA's management library, which comes with the driver; None without a driver."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return None if library.nvmlInit_v2() else library


def written(loads: list[Load], settings: Settings, gauges: Gauges, notes: list[str], **facts: Any) -> dict[str, Any]:
    """Everything that was measured, to be written as JSON."""
    return {
        "settings": {"prompt_tokens": settings.prompt_tokens, "output_tokens": settings.output_tokens},
        "loads": [
            {
                "concurrency": load.concurrency,
                "warm_ups": load.warm_ups,
                "stable": load.stable,
                "repeats": len(load.repeats),
                "quiet": load.quiet(min(one["slowest_machine_ms"] for each in loads for one in each.repeats)),
                "all": load.repeats,
                "gap_p99_ms": 1000 * percentile(load.gaps, 99),
            }
            for load in loads
        ],
        "peak_host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_gpu_bytes": gauges.peak_bytes,
        "watts": statistics.median(gauges.watts) if gauges.watts else None,
        "notes": notes,
        **gauges.facts(),
        **facts,
    }

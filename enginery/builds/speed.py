"""How fast an engine is: what the bench step measured, on which machine, and with which settings.

The engine is started several times. Each start warms up, and measures several times. The figure of a start is the
median of its repeats. The 95% interval of a report's figure is Student's t interval over its starts, because what
differs from start to start (memory layout, clock rates) is more than what differs from repeat to repeat.
"""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from enginery.core.errors import StoreError
from enginery.core.model import Frozen

SPEED_SCHEMA = 1
SPEED_FILE = "bench.json"

T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
"""The 97.5% quantiles of Student's t distribution for 1, 2, 3 … degrees of freedom."""
NORMAL_975 = 1.96


class Machine(Frozen):
    """The machine that an engine was measured on.

    Attributes:
        host: its name.
        cpu: the model of its CPU.
        cores: how many of its CPUs this process may use.
        memory_bytes: its memory.
        gpus: the product names of the GPUs that the engine could use; empty for none.
        driver: the version of the NVIDIA driver; empty without one.
        load: how many processes wanted to run when the measurement began, over the last minute.
    """

    host: str
    cpu: str
    cores: int
    memory_bytes: int
    gpus: tuple[str, ...] = ()
    driver: str = ""
    load: float


class SpeedSettings(Frozen):
    """How an engine was measured.

    Attributes:
        prompt_tokens: tokens of each prompt.
        output_tokens: tokens of each answer.
        runtime: what ran the engine, such as `onnxruntime-genai` or `tensorrt_llm:LLM`.
        release: its version.
        threads: its CPU threads; 0 if the runtime chooses.
        world_size: the GPUs that shared the model.
    """

    prompt_tokens: int
    output_tokens: int
    runtime: str
    release: str
    threads: int = 0
    world_size: int = 1


class Series(Frozen):
    """One measure, from all repeats.

    Attributes:
        median: the median of the starts' medians.
        low: the lower end of its 95% interval; None with one start.
        high: the upper end.
        starts: the median of each start.
    """

    median: float
    low: float | None = None
    high: float | None = None
    starts: tuple[float, ...]

    @classmethod
    def of(cls, starts: Sequence[float]) -> "Series":
        """The series of these starts' medians."""
        rounded = tuple(map(four_digits, starts))
        low, high = interval(starts)
        return cls(median=four_digits(statistics.median(starts)), low=low, high=high, starts=rounded)


class LoadSpeed(Frozen):
    """The speed with one number of sequences at once.

    Attributes:
        concurrency: how many sequences.
        warm_ups: the most runs that a start needed until the time of a run did not change any more.
        stable: whether all starts became that steady.
        repeats: how often it was measured, in all starts.
        disturbed: how many repeats are left out because the machine itself was slower during them.
        first_ms: milliseconds from the request to the first token of all sequences: prefill.
        gap_ms: milliseconds between two tokens: decode.
        gap_p99_ms: the 99th percentile of the single times between tokens; None if the runtime gives no single tokens.
        tokens_per_second: of all sequences together, with prefill.
        prefill_tokens_per_second: tokens of the prompts.
        machine_ms: how long a fixed piece of work took on the machine's CPU meanwhile.
    """

    concurrency: int
    warm_ups: int
    stable: bool
    repeats: int
    disturbed: int
    first_ms: Series
    gap_ms: Series
    gap_p99_ms: float | None = None
    tokens_per_second: Series
    prefill_tokens_per_second: Series
    machine_ms: Series


class SpeedReport(Frozen):
    """How fast an engine is.

    Attributes:
        loads: the measurements, one for each concurrency of the spec.
        load_seconds: how long loading the engine took; the median of the starts.
        peak_host_bytes: the largest resident memory of the process that ran the engine.
        peak_gpu_bytes: the most memory of all GPUs together that the engine used; None without a GPU.
        watts: the power of all GPUs together while it ran; None if the driver does not say.
        disturbed: whether other programs slowed down the machine nearly all the time.
        neighbours: the steps that worked on this machine's CPU at the same time.
        notes: what is different from what the spec asks for, in words.
    """

    schema_version: int = SPEED_SCHEMA
    machine: Machine
    settings: SpeedSettings
    loads: tuple[LoadSpeed, ...]
    load_seconds: float
    peak_host_bytes: int
    peak_gpu_bytes: int | None = None
    watts: float | None = None
    disturbed: bool = False
    neighbours: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def load(self, concurrency: int) -> LoadSpeed | None:
        """The measurements with so many sequences at once."""
        return next((one for one in self.loads if one.concurrency == concurrency), None)


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The 95% interval of the centre of these values, by Student's t; nothing for a single value."""
    if len(values) < 2:  # noqa: PLR2004  one value has no spread
        return None, None
    middle = statistics.mean(values)
    half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return four_digits(middle - half), four_digits(middle + half)


def t_quantile(freedom: int) -> float:
    """The 97.5% quantile of Student's t distribution."""
    return T_975[freedom - 1] if freedom <= len(T_975) else NORMAL_975 + 2.5 / freedom


def four_digits(value: float) -> float:
    """The value with four significant digits: more are noise."""
    return float(f"{value:.4g}")


def read_speed(directory: Path) -> SpeedReport:
    """The report in the output of a bench step.

    Raises:
        StoreError: when there is no report, or it is not valid.
    """
    path = directory / SPEED_FILE
    try:
        return SpeedReport.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        remedy = "remove the step from the store and run the build again"
        raise StoreError(f"is not a report of speed: {error}", subject=str(path), remedy=remedy) from error

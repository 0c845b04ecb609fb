"""How fast an engine is: what the bench step measured, on which machine, and with which settings.

The engine is started several times. Each start warms up, and measures several times. The figure of a start is the
median of its repeats. The 95% interval of a report's figure is Student's t interval over its starts, because what
differs from start to start (memory layout, clock rates) is more than what differs from repeat to repeat.
"""

import math
import os
import platform
import re
import socket
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from enginery.core.errors import StoreError
from enginery.core.model import Frozen
from enginery.core.text import human_bytes

SPEED_SCHEMA = 1
SPEED_FILE = "bench.json"

SPEED_COLUMNS = ("at once", "ms to first token", "ms between tokens", "99th percentile", "tokens/s", "repeats")
"""The heads of the columns of `speed_rows`."""

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

    @classmethod
    def this(cls, load: float, gpus: tuple[str, ...] = (), driver: str = "") -> "Machine":
        """This machine."""
        return cls(
            host=socket.gethostname(),
            cpu=_cpu(),
            cores=len(os.sched_getaffinity(0)),
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            gpus=gpus,
            driver=driver,
            load=round(load, 2),
        )


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()


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


def speed_differences(now: SpeedReport, before: SpeedReport) -> Iterator[str]:
    """Why the two cannot be compared: each difference of machine and settings in words."""
    facts = {
        "GPU": (", ".join(before.machine.gpus), ", ".join(now.machine.gpus)),
        "driver": (before.machine.driver, now.machine.driver),
        "CPU": (before.machine.cpu, now.machine.cpu),
        "CPUs": (before.machine.cores, now.machine.cores),
        **{
            name.replace("_", " "): (getattr(before.settings, name), getattr(now.settings, name))
            for name in ("prompt_tokens", "output_tokens", "threads", "world_size")
        },
    }
    for name, (old, new) in facts.items():
        if old != new:
            yield f"{name} {new or 'none'}, not {old or 'none'}"


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


def speed_rows(report: SpeedReport) -> list[tuple[str, ...]]:
    """The rows of a table for people, one for each number of sequences at once."""
    return [
        (
            str(load.concurrency),
            _with_interval(load.first_ms),
            _with_interval(load.gap_ms),
            "unknown" if load.gap_p99_ms is None else f"{load.gap_p99_ms:.4g}",
            _with_interval(load.tokens_per_second),
            f"{load.repeats - load.disturbed} in {len(load.gap_ms.starts)} starts",
        )
        for load in report.loads
    ]


def _with_interval(series: Series) -> str:
    between = "" if series.low is None or series.high is None else f" ({series.low:g} to {series.high:g})"
    return f"{series.median:g}{between}"


def measured_on(report: SpeedReport) -> str:
    """The machine, the settings and the peaks, in one sentence for people."""
    machine, settings = report.machine, report.settings
    gpus = f"{' and '.join(machine.gpus)} with driver {machine.driver}, " if machine.gpus else ""
    threads = f" on {settings.threads} threads" if settings.threads else ""
    peaks = [f"{human_bytes(report.peak_host_bytes)} of memory"]
    peaks += [f"{human_bytes(report.peak_gpu_bytes)} of GPU memory"] if report.peak_gpu_bytes is not None else []
    peaks += [f"{report.watts:g} W"] if report.watts is not None else []
    disturbed = "; other programs slowed down the machine" if report.disturbed else ""
    return (
        f"{settings.runtime} {settings.release}{threads}, {settings.prompt_tokens} tokens in and"
        f" {settings.output_tokens} out, on {machine.host}: {gpus}{machine.cpu}, {machine.cores} CPUs,"
        f" {human_bytes(machine.memory_bytes)}; peak {', '.join(peaks)}{disturbed}"
    )


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

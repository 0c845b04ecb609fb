"""Runs `trtllm-build`, with a timing cache and with as many workers as the machine's memory allows.

The cache and the workers change how long a build takes, but not its engine. So the step's recipe does not contain them.
The step fails if the engine is not complete.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydantic import Field, JsonValue

from enginery import toolchains
from enginery.backends.tensorrt.engine import (
    Engine,
    WantedEngine,
    blames_timing_cache,
    explain,
    read_engine,
    refused_timing_cache,
)
from enginery.backends.tensorrt.timing_cache import Fetched, Kept, TimingCaches
from enginery.core.errors import CommandError, UsageError
from enginery.core.files import remove_tree
from enginery.core.progress import Facts
from enginery.core.text import human_bytes
from enginery.releases import flag
from enginery.store import StepContext
from enginery.toolchains import DRIVERS, TENSORRT_PACKAGES

COPIES = 3.0
"""How many copies of its rank's weights a worker holds: from the checkpoint, as constants of TensorRT's network,
and in the serialized engine until that is written. This is an estimate, not measured. It agrees with issue 577 of
NVIDIA/TensorRT-LLM, where 32 GB were not enough for 7 billion parameters in float16."""

WORKER_BYTES = 6 << 30
"""Memory that a worker also needs: for PyTorch, CUDA's context, and TensorRT's builder with its kernels (issues 489 and
743 of NVIDIA/TensorRT-LLM show 1.8 to 2 GB for the kernels alone)."""

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")
MERGE_TIMING_CACHES = DRIVERS / "merge_timing_caches.py"
INPUT_CACHE = "given.cache"

OUTPUT_CACHE = "model.cache"
"""Cache files in the command's working directory. Their paths are relative, because releases write the path into the
engine's `config.json`. `model.cache` is the releases' own default."""


class BuildParameters(WantedEngine):
    """The recipe's parameters: the engine to build, and how.

    Attributes:
        gpu: the GPU on which and for which the engine is built.
        workers: the number of ranks to build side by side; None for all ranks.
        accept_host_memory: whether to try one worker even if the memory seems too small for it.
    """

    gpu: str
    workers: int | None = Field(default=None, ge=1)
    accept_host_memory: bool = False


@dataclass(frozen=True)
class Build:
    """A successful build.

    Attributes:
        used: the timing cache that the build began with.
        made: the timing cache that the build wrote; empty if it wrote none.
    """

    engine: Engine
    used: Fetched
    seconds: float
    made: bytes


@dataclass(frozen=True)
class Workers:
    """How many ranks are built side by side. `note` says why they are fewer than wanted; else it is empty."""

    count: int
    note: str = ""


def build_engine(context: StepContext, argv: tuple[str, ...], environment: Mapping[str, str]) -> Facts:
    """Build the engine and check it. The command runner `build_engine`.

    Raises:
        UsageError: when the machine's memory is too small for even one worker.
        CommandError: when the command fails, or does not write the engine that is wanted.
    """
    parameters = BuildParameters.model_validate(dict(context.parameters))
    workers = choose_workers(context, argv, parameters)
    if workers.note:
        context.log(workers.note)
    builder = Builder(context, parameters, with_workers(argv, workers.count, parameters), environment)
    caches = open_caches(context, parameters)
    build = builder.build(caches.fetch() if caches else Fetched())
    kept: Kept = "not saved"
    if caches:
        kept = caches.keep(build.made, build.used, build.engine.shape, build.seconds, builder.merge)
    return facts_of(build, workers, kept)


def affordable_workers(wanted: int, rank_bytes: int, available: int, *, accepted: bool = False) -> Workers:
    """The wanted number of workers, or fewer if the memory is too small for them.

    Args:
        wanted: how many ranks are to be built side by side.
        rank_bytes: the size of the largest rank's weights.
        available: bytes of memory that can be used before the kernel kills a process.
        accepted: whether one worker may be tried even if the memory seems too small for it.

    Raises:
        UsageError: when the memory is too small for one worker, and that is not accepted.
    """
    each = needed_bytes(rank_bytes)
    fits = available // each
    if fits >= wanted:
        return Workers(wanted)
    figures = (
        f"each worker needs about {human_bytes(each)} of the machine's memory ({COPIES:g} x {human_bytes(rank_bytes)}"
        f" of weights and {human_bytes(WORKER_BYTES)}), and {human_bytes(available)} are free"
    )
    if fits >= 1:
        return Workers(fits, f"{fits} instead of {wanted} workers: {figures}")
    if accepted:
        return Workers(1, f"one worker although it may not fit: {figures}")
    raise UsageError(
        f"the build does not fit into this machine's memory: {figures}",
        subject="trtllm-build",
        remedy="use a machine with more memory, end other programs that use it, or split the model into more ranks"
        " (tensor_parallel, pipeline_parallel); to try it anyway, accept the warning on host memory in `force`",
    )


def needed_bytes(rank_bytes: int) -> int:
    """Estimate the memory of one worker in bytes, for a rank with this many bytes of weights."""
    return int(COPIES * rank_bytes) + WORKER_BYTES


def largest_rank_bytes(checkpoint: Path) -> int:
    """The size of the largest rank's weights in a checkpoint, in bytes; 0 if it has no weights."""
    return max((path.stat().st_size for path in checkpoint.glob("rank*.safetensors")), default=0)


def available_memory(cgroups: Path = CGROUPS, own: Path = OWN_CGROUP) -> int:
    """The free memory in bytes: the smallest of the machine's and of each cgroup's that this process is in."""
    return min([psutil.virtual_memory().available, *_left_in_groups(cgroups, own)])


def choose_workers(context: StepContext, argv: tuple[str, ...], parameters: BuildParameters) -> Workers:
    """How many ranks to build side by side on this machine."""
    world_size = parameters.world_size
    given = argv[argv.index("--workers") + 1] if "--workers" in argv[:-1] else ""
    wanted = int(given) if given.isdigit() else parameters.workers or world_size
    rank_bytes = largest_rank_bytes(context.inputs["checkpoint"])
    accepted = parameters.accept_host_memory
    return affordable_workers(min(max(wanted, 1), world_size), rank_bytes, available_memory(), accepted=accepted)


def with_workers(argv: tuple[str, ...], count: int, parameters: BuildParameters) -> tuple[str, ...]:
    """The command with a number of workers. One rank needs no such flag: one worker always builds it."""
    if "--workers" in argv[:-1]:
        place = argv.index("--workers") + 1
        return (*argv[:place], str(count), *argv[place + 1 :])
    return argv if parameters.world_size == 1 else (*argv, "--workers", str(count))


def open_caches(context: StepContext, parameters: BuildParameters) -> TimingCaches | None:
    """The timing cache for this GPU and TensorRT; None without a store, or if TensorRT's version is not known."""
    facts = toolchains.known_facts(context.toolchain) if context.toolchain else {}
    version = next((facts[name] for name in TENSORRT_PACKAGES if name in facts), "")
    if context.shelf is None or not version:
        context.log(f"no timing cache: {'there is no store' if version else 'the version of TensorRT is not known'}")
        return None
    return TimingCaches(context.shelf, parameters.gpu, version, context.log)


@dataclass(frozen=True)
class Builder:
    """Runs the build command of one step."""

    context: StepContext
    parameters: BuildParameters
    argv: tuple[str, ...]
    environment: Mapping[str, str]

    def build(self, found: Fetched) -> Build:
        """Build the engine. If the timing cache may have caused a failure, build again without it.

        Raises:
            CommandError: when the build fails.
        """
        takes_one = self._has_flag("--input_timing_cache") or self._has_flag("--timing_cache")
        used = found if takes_one else Fetched()
        try:
            return self._attempt(used)
        except CommandError as error:
            if used.cache is None or not blames_timing_cache(error):
                raise explain(error, self.context, self.argv, self.parameters.release) from error
            self.context.log(f"the timing cache is discarded, and the build begins again without it: {error.problem}")
        try:
            return self._attempt(used.refused)
        except CommandError as error:
            raise explain(error, self.context, self.argv, self.parameters.release) from error

    def _attempt(self, used: Fetched) -> Build:
        """One run of the command, in an empty working directory and with an empty output."""
        for directory in (self.context.scratch, self.context.output):
            remove_tree(directory)
            directory.mkdir()
        lines: list[str] = []
        done = self._collecting(lines).run(
            (*self.argv, *self._cache_flags(used)), self.environment, cwd=self.context.scratch
        )
        self.context.completed.append(done)
        engine = read_engine(self.context.output, self.parameters, done.last_lines)
        made = self.context.scratch / OUTPUT_CACHE
        refused = used.cache is not None and refused_timing_cache(lines)
        if refused:
            self.context.log("TensorRT did not take the timing cache; it is discarded")
        return Build(
            engine, used.refused if refused else used, done.seconds, made.read_bytes() if made.exists() else b""
        )

    def _collecting(self, lines: list[str]) -> StepContext:
        """The step's context, with a log that also collects the lines about a timing cache."""

        def log(line: str) -> None:
            if "timing cache" in line.lower():
                lines.append(line)
            self.context.log(line)

        return dataclasses.replace(self.context, log=log, completed=[])

    def _cache_flags(self, used: Fetched) -> tuple[str, ...]:
        """Write the cache to read into a file. Return the flags that name this file and the one to write."""
        flags: tuple[str, ...] = ()
        if used.cache is not None:
            (self.context.scratch / INPUT_CACHE).write_bytes(used.cache)
            name = "--input_timing_cache" if self._has_flag("--input_timing_cache") else "--timing_cache"
            flags = (name, INPUT_CACHE)
        return (*flags, "--output_timing_cache", OUTPUT_CACHE) if self._has_flag("--output_timing_cache") else flags

    def _has_flag(self, name: str) -> bool:
        return flag(self.parameters.release, name).value is not None

    def merge(self, first: bytes, second: bytes) -> bytes | None:
        """Merge two timing caches with TensorRT; None if that fails."""
        toolchain = self.context.toolchain
        if toolchain is None:
            return None
        paths = {name: self.context.scratch / f"{name}.cache" for name in ("first", "second", "output")}
        paths["output"].unlink(missing_ok=True)
        paths["first"].write_bytes(first)
        paths["second"].write_bytes(second)
        flags = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
        unrecorded = dataclasses.replace(self.context, completed=[])
        try:
            unrecorded.run([str(toolchain.python), str(MERGE_TIMING_CACHES), *flags], cwd=self.context.scratch)
            merged = paths["output"].read_bytes()
        except (CommandError, OSError) as error:
            self.context.log(f"two timing caches could not be merged: {error}")
            return None
        return merged if len(merged) >= max(len(first), len(second)) else None


def facts_of(build: Build, workers: Workers, kept: Kept) -> Facts:
    """The facts about a build that its record contains."""
    seconds = round(build.seconds, 3)
    with_cache = build.used.cache is not None
    before = build.used.seconds_without.get(build.engine.shape) if with_cache else None
    cache: dict[str, JsonValue] = {"used": with_cache, "kept": kept}
    if before is not None:
        without = round(before, 3)
        cache |= {"seconds_without": without, "seconds_saved": round(without - seconds, 3)}
    return {
        "release": str(build.engine.config["version"]),
        "engines": dict(build.engine.sizes),
        "engine_bytes": sum(build.engine.sizes.values()),
        "limits": build.engine.limits,
        "seconds": seconds,
        "workers": workers.count,
        "workers_note": workers.note,
        "timing_cache": cache,
    }


def _left_in_groups(cgroups: Path, own: Path) -> Iterator[int]:
    """The free memory in bytes of each cgroup that limits this process, for cgroups of version 1 and 2."""
    lines = own.read_text(encoding="utf-8").splitlines() if own.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        root = cgroups / controllers
        group = root / path.strip("/")
        for directory in (group, *group.parents) if controllers in {"", "memory"} else ():
            limit = _number(directory / "memory.max", directory / "memory.limit_in_bytes")
            used = _number(directory / "memory.current", directory / "memory.usage_in_bytes")
            if limit is not None and used is not None and directory.is_relative_to(root):
                yield max(0, limit - used + _reclaimable(directory / "memory.stat"))


def _number(*paths: Path) -> int | None:
    """The number in the first of these files that exists; None if none exists, or it says `max` for no limit."""
    for path in paths:
        if path.is_file():
            text = path.read_text(encoding="utf-8").strip()
            return int(text) if text.isdigit() else None
    return None


def _reclaimable(statistics: Path) -> int:
    """Bytes of the page cache, which the kernel frees when a process needs memory."""
    lines = statistics.read_text(encoding="utf-8").splitlines() if statistics.is_file() else []
    found = dict(line.split(" ", 1) for line in lines)
    return int(found.get("inactive_file", found.get("total_inactive_file", "0")))

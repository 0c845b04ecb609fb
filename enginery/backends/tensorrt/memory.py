"""How many workers of a build fit into the host's memory, so that the kernel does not have to kill one of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from enginery.errors import UsageError
from enginery.units import human_bytes

COPIES = 3.0
"""How often a worker holds its rank's weights at once: as it read them from the checkpoint, as constants of TensorRT's
network, and inside the serialized engine until that is written. An estimate: it was not measured here, but agrees with
NVIDIA/TensorRT-LLM issue 577, where 32 GB were not enough for 7 billion parameters in float16."""

WORKER_BYTES = 6 << 30
"""What a worker takes besides: PyTorch, CUDA's context, and TensorRT's builder with its kernels (NVIDIA/TensorRT-LLM
issues 489 and 743 show 1.8 to 2 GB for the kernels alone)."""

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Workers:
    """How many ranks are built side by side.

    Attributes:
        count: so many.
        note: why not as many as were asked for; empty where they are.
    """

    count: int
    note: str = ""


def needed_bytes(rank_bytes: int) -> int:
    """Estimate what one worker needs for a rank whose part of the checkpoint has so many bytes."""
    return int(COPIES * rank_bytes) + WORKER_BYTES


def largest_rank_bytes(checkpoint: Path) -> int:
    """The size of the largest rank's weights in a checkpoint; 0 where there are none."""
    return max((path.stat().st_size for path in checkpoint.glob("rank*.safetensors")), default=0)


def fitting_workers(asked: int, rank_bytes: int, available: int, *, accepted: bool = False) -> Workers:
    """As many of the workers that were asked for as fit into the memory that is available, in bytes.

    Args:
        asked: how many ranks are to be built side by side.
        rank_bytes: the size of the largest rank's weights.
        available: what can be used without the kernel killing something.
        accepted: whether one worker may be tried although it does not fit.

    Raises:
        UsageError: when not even one fits, unless that is accepted.
    """
    each = needed_bytes(rank_bytes)
    fits = available // each
    if fits >= asked:
        return Workers(asked)
    figures = (
        f"each needs about {human_bytes(each)} of the machine's memory ({COPIES:g} x {human_bytes(rank_bytes)} of"
        f" weights and {human_bytes(WORKER_BYTES)}), and {human_bytes(available)} are free"
    )
    if fits >= 1:
        return Workers(fits, f"{fits} instead of {asked} workers: {figures}")
    if accepted:
        return Workers(1, f"one worker although it may not fit: {figures}")
    raise UsageError(
        f"the build does not fit into this machine's memory: of its workers {figures}",
        subject="trtllm-build",
        remedy="use a machine with more memory, end what else uses it, or cut the model into more ranks"
        " (tensor_parallel, pipeline_parallel); accept the warning on host memory in `force` to try it all the same",
    )


def available_memory(cgroups: Path = CGROUPS, own: Path = OWN_CGROUP) -> int:
    """Bytes that can still be used: of the machine, and of every control group this process is in."""
    import psutil  # noqa: PLC0415  a plan asks for no memory

    return min([psutil.virtual_memory().available, *_left_in_groups(cgroups, own)])


def _left_in_groups(cgroups: Path, own: Path) -> Iterator[int]:
    """What each limited control group above this process leaves, of version 1 and 2."""
    lines = own.read_text(encoding="utf-8").splitlines() if own.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers in {"", "memory"}:
            root = cgroups / controllers
            group = root / path.strip("/")
            yield from _left_above(group, root)


def _left_above(group: Path, root: Path) -> Iterator[int]:
    for directory in (group, *group.parents):
        limit = _number(directory / "memory.max", directory / "memory.limit_in_bytes")
        used = _number(directory / "memory.current", directory / "memory.usage_in_bytes")
        if limit is not None and used is not None:
            yield max(0, limit - used + _reclaimable(directory / "memory.stat"))
        if directory == root:
            return


def _number(*paths: Path) -> int | None:
    """The number in the first of these files that is there; None where none is, or there is no limit (`max`)."""
    for path in paths:
        if path.is_file():
            text = path.read_text(encoding="utf-8").strip()
            return int(text) if text.isdigit() else None
    return None


def _reclaimable(statistics: Path) -> int:
    """Bytes of files that the kernel keeps in memory only while nobody else wants it."""
    lines = statistics.read_text(encoding="utf-8").splitlines() if statistics.is_file() else []
    found = dict(line.split(" ", 1) for line in lines)
    return int(found.get("inactive_file", found.get("total_inactive_file", "0")))

"""Names for the ways a command fails, told from its exit status and from what it printed last."""

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

SHELL_SIGNAL_BASE = 128


class FailureCause(StrEnum):
    """Why a command did not end well."""

    GPU_MEMORY = "gpu-memory"
    HOST_MEMORY = "host-memory"
    DISK_FULL = "disk-full"
    UNKNOWN_FLAG = "unknown-flag"
    MISSING_LIBRARY = "missing-library"
    GPU_NOT_VISIBLE = "gpu-not-visible"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    KILLED = "killed"
    NOT_FOUND = "not-found"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Failure:
    """A named failure.

    Attributes:
        cause: its name.
        meaning: what happened, to follow the command's name and its exit status.
        remedy: what to do next.
    """

    cause: FailureCause
    meaning: str
    remedy: str


@dataclass(frozen=True)
class Sign:
    """What a command prints when it fails in a known way."""

    pattern: re.Pattern[str]
    failure: Failure


def _sign(cause: FailureCause, meaning: str, remedy: str, *patterns: str) -> Sign:
    return Sign(re.compile("|".join(patterns)), Failure(cause, meaning, remedy))


OUT_OF_HOST_MEMORY = Failure(
    FailureCause.HOST_MEMORY,
    "it ran out of the machine's memory",
    "use a machine with more memory, or run fewer steps side by side",
)

SIGNS = (
    _sign(
        FailureCause.GPU_MEMORY,
        "the GPU's memory is too small for it",
        "free the GPU's memory (see nvidia-smi), use a larger GPU, a smaller precision or more tensor parallelism",
        r"CUDA out of memory",
        r"CUDA error: out of memory",
        r"CUDA_ERROR_OUT_OF_MEMORY",
        r"cudaErrorMemoryAllocation",
        r"Requested amount of GPU memory",
        r"GPU memory allocation.*failed",
        r"OutOfMemory",
        r"CUDA failure 2: out of memory",
    ),
    _sign(
        FailureCause.DISK_FULL,
        "the disk is full",
        "free some space, or set ENGINERY_HOME to a larger disk",
        r"No space left on device",
        r"Disk quota exceeded",
    ),
    _sign(
        FailureCause.GPU_NOT_VISIBLE,
        "it sees no usable GPU",
        "check with nvidia-smi that the driver works, that CUDA_VISIBLE_DEVICES names a GPU, and that the"
        " container was started with access to it",
        r"[Nn]o CUDA-capable device",
        r"CUDA driver version is insufficient",
        r"NVIDIA-SMI has failed",
        r"[Nn]o CUDA GPUs are available",
        r"Found no NVIDIA driver",
        r"CUDA_ERROR_NO_DEVICE",
    ),
    _sign(
        FailureCause.MISSING_LIBRARY,
        "a library it needs is missing",
        "check the toolchain (enginery toolchain check) and create it again, or install what is named below",
        r"error while loading shared libraries",
        r"cannot open shared object file",
        r"^ModuleNotFoundError: ",
        r"^ImportError: ",
    ),
    _sign(
        FailureCause.UNKNOWN_FLAG,
        "it does not know one of its flags or values",
        "compare the command with the --help of this release",
        r"error: unrecognized arguments",
        r"error: .*invalid choice",
        r"No such option",
        r"unrecognized option",
        r"invalid option --",
    ),
    Sign(
        re.compile(r"std::bad_alloc|^MemoryError\b|Cannot allocate memory|DefaultCPUAllocator: can't allocate"),
        OUT_OF_HOST_MEMORY,
    ),
)


def failure_of(code: int, lines: Sequence[str]) -> Failure:
    """Name a failure.

    Args:
        code: the exit status, or the negative number of the signal that ended the command.
        lines: the last lines it printed.
    """
    for sign in SIGNS:
        if any(sign.pattern.search(line) for line in lines):
            return sign.failure
    number = signal_of(code)
    if number == signal.SIGKILL:
        # We end commands too, but that is another outcome: this was the kernel, or somebody with kill -9.
        meaning = "most likely the machine's memory ran out"
        return Failure(FailureCause.HOST_MEMORY, meaning, OUT_OF_HOST_MEMORY.remedy)
    if number is not None:
        remedy = "read its last lines; if nobody ended it on purpose, this is a fault of the command itself"
        return Failure(FailureCause.KILLED, f"it was ended by {number.name}", remedy)
    return Failure(FailureCause.UNKNOWN, "", "read its last lines, and try the command by hand")


def signal_of(code: int) -> signal.Signals | None:
    """The signal that ended a command, also when a shell in between reports it as 128 plus its number."""
    number = -code if code < 0 else code - SHELL_SIGNAL_BASE
    try:
        return signal.Signals(number) if number > 0 else None
    except ValueError:
        return None

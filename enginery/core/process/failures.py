"""Names for known failures of commands. They are recognised by the exit status and the last lines."""

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

SHELL_SIGNAL_BASE = 128


class FailureCause(StrEnum):
    """Why a command failed."""

    GPU_MEMORY = "gpu-memory"
    HOST_MEMORY = "host-memory"
    DISK_FULL = "disk-full"
    UNKNOWN_FLAG = "unknown-flag"
    MISSING_LIBRARY = "missing-library"
    GPU_NOT_VISIBLE = "gpu-not-visible"
    ENGINE_MISMATCH = "engine-mismatch"
    SHARED_MEMORY = "shared-memory"
    MPI = "mpi"
    INCOMPLETE = "incomplete"
    WEIGHTS = "weights"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    KILLED = "killed"
    NOT_FOUND = "not-found"
    CONTAINER_DAEMON = "container-daemon"
    CONTAINER_IMAGE = "container-image"
    CONTAINER_GPU = "container-gpu"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Failure:
    """A named failure.

    Attributes:
        cause: its name.
        meaning: what happened. The error shows it after the command's name and exit status.
        remedy: what to do next.
        sign: a pattern that matches a line of the command's output; empty when the exit status is enough.
    """

    cause: FailureCause
    meaning: str
    remedy: str
    sign: str = ""


MORE_HOST_MEMORY = "use a machine with more memory, or run fewer steps side by side"
WARNING = re.compile(r"\[(W|I|V|D|WARNING|INFO|VERBOSE|DEBUG)\]|skipping tactic", re.IGNORECASE)
"""Lines that are not searched for errors: TensorRT warns about GPU memory for each tactic that it skips."""

SIGNS = (
    Failure(
        FailureCause.CONTAINER_DAEMON,
        "docker's daemon does not answer",
        "start Docker, and let this user use it (check that `docker info` works); or use another kind of toolchain",
        r"Cannot connect to the Docker daemon|permission denied while trying to connect to the [Dd]ocker"
        r"|^error during connect: ",
    ),
    Failure(
        FailureCause.CONTAINER_GPU,
        "docker cannot give it a GPU",
        "install NVIDIA's container toolkit and configure docker for it (nvidia-ctk runtime configure), then check"
        " with nvidia-smi that the driver works",
        r"could not select device driver .*gpu|unknown or invalid runtime name: nvidia|nvidia-container-cli: ",
    ),
    Failure(
        FailureCause.CONTAINER_IMAGE,
        "docker cannot get the image",
        "set ENGINERY_CONTAINER_REGISTRY to the registry that has it (for NVIDIA's images: the host in the `docker"
        " pull` line of NVIDIA's container catalogue, or your own mirror), and sign in with docker login",
        r"pull access denied|manifest unknown|manifest for .* not found|no matching manifest|[Nn]o such image"
        r"|[Uu]nable to find image|^Error response from daemon: .*(unauthorized|denied)",
    ),
    Failure(
        FailureCause.NOT_FOUND,
        "there is no such command in the image",
        "name an image that contains the release, or choose another release",
        # With `docker run --init`, tini starts the command, or starts the image's entry point, which may be a shell.
        r"executable file not found in \$PATH|^\[FATAL tini \(\d+\)\] exec .* failed: No such file or directory"
        r"|: exec: .*: not found$",
    ),
    Failure(
        FailureCause.GPU_MEMORY,
        "the GPU's memory is too small for it",
        "free the GPU's memory (see nvidia-smi), use a larger GPU, a smaller precision or more tensor parallelism",
        r"CUDA out of memory|CUDA error: out of memory|CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation"
        r"|Requested amount of GPU memory|GPU memory allocation.*failed|OutOfMemory|CUDA failure 2: out of memory",
    ),
    Failure(
        FailureCause.DISK_FULL,
        "the disk is full",
        "free some space, or set ENGINERY_HOME to a larger disk",
        r"No space left on device|Disk quota exceeded",
    ),
    Failure(
        FailureCause.GPU_NOT_VISIBLE,
        "it sees no usable GPU",
        "check with nvidia-smi that the driver works, that CUDA_VISIBLE_DEVICES names a GPU, and that the"
        " container was started with access to it",
        r"[Nn]o CUDA-capable device|CUDA driver version is insufficient|NVIDIA-SMI has failed"
        r"|[Nn]o CUDA GPUs are available|Found no NVIDIA driver|CUDA_ERROR_NO_DEVICE",
    ),
    Failure(
        FailureCause.MISSING_LIBRARY,
        "a library it needs is missing",
        "check the toolchain (enginery toolchain check) and create it again, or install what is named below",
        r"error while loading shared libraries|cannot open shared object file|^ModuleNotFoundError: |^ImportError: ",
    ),
    Failure(
        FailureCause.UNKNOWN_FLAG,
        "it does not know one of its flags or values",
        "compare the command with the --help of this release",
        r"error: unrecognized arguments|error: .*invalid choice|No such option|unrecognized option|invalid option --",
    ),
    Failure(
        FailureCause.ENGINE_MISMATCH,
        "the engine was built for another TensorRT or another GPU",
        "run it with the release and on the GPU that it was built for, or build it again for these",
        r"engine plan file is (not compatible with this version|generated on an incompatible device)"
        r"|Version tag does not match",
    ),
    Failure(
        FailureCause.SHARED_MEMORY,
        "there is too little shared memory for its ranks to talk to each other",
        "start the container with more (docker run --shm-size=1g --ulimit memlock=-1, or --ipc=host)",
        r"[Ee]rror while (creating|attaching to) shared memory segment|unable to open shared memory object"
        r"|insufficient shared memory \(shm\)",
    ),
    Failure(
        FailureCause.MPI,
        "mpirun could not start its ranks",
        "check that mpirun is the Open MPI of this release and that the machine has as many GPUs as the engine needs",
        r"There are not enough slots available|mpirun has detected an attempt to run as root"
        r"|mpirun was unable to (launch|find|start)|looks like MPI_INIT failed",
    ),
    Failure(
        FailureCause.HOST_MEMORY,
        "it ran out of the machine's memory",
        MORE_HOST_MEMORY,
        r"std::bad_alloc|^MemoryError\b|Cannot allocate memory|DefaultCPUAllocator: can't allocate",
    ),
)
"""The known failures, each with the lines that a command prints then."""


def failure_of(code: int, lines: Sequence[str]) -> Failure:
    """The known failure of a command, or one with the cause `unknown`.

    Args:
        code: the exit status, or the negative number of the signal that ended the command.
        lines: the last lines that the command printed.
    """
    number = signal_of(code)
    if number == signal.SIGKILL:
        # Not Enginery: its supervisor reports another outcome. So it was the kernel, or a user with kill -9.
        return Failure(FailureCause.HOST_MEMORY, "most likely the machine's memory ran out", MORE_HOST_MEMORY)
    for line in reversed(lines):  # the last error ended the command
        known = None if WARNING.search(line) else next((known for known in SIGNS if re.search(known.sign, line)), None)
        if known is not None:
            return known
    if number is not None:
        remedy = "read its last lines; if nobody ended it on purpose, this is a fault of the command itself"
        return Failure(FailureCause.KILLED, f"it was ended by {number.name}", remedy)
    return Failure(FailureCause.UNKNOWN, "", "read its last lines, and try the command by hand")


def signal_of(code: int) -> signal.Signals | None:
    """The signal that ended a command, or None. A shell reports a signal as 128 plus its number."""
    number = -code if code < 0 else code - SHELL_SIGNAL_BASE
    try:
        return signal.Signals(number) if number > 0 else None
    except ValueError:
        return None

"""The known GPUs: their names in different tools, compute capability, memory, and the precisions they compute in.

To add a GPU, add a line to `TABLE`: our name, the name that `nvidia-smi` prints, compute capability, memory.
"""

import difflib
import re
import shutil
from dataclasses import dataclass

from enginery.core import process
from enginery.core.errors import CommandError, UsageError
from enginery.spec.types import Precision

QUERY = ("nvidia-smi", "--query-gpu=name,compute_cap,memory.total", "--format=csv,noheader,nounits")
QUERY_SECONDS = 60.0
"""On a machine with many GPUs and no persistence daemon the first query takes long."""

MIB_PER_GB = 1024
NEAR = 3
"""How many names are suggested for an unknown one."""

FIRST_CAPABILITY = {
    Precision.BFLOAT16: (8, 0),
    Precision.FP8: (8, 9),
    Precision.W4A8_AWQ: (8, 9),
    Precision.NVFP4: (10, 0),
}
"""The lowest compute capability that computes in a precision; a precision that is not listed has no limit."""


@dataclass(frozen=True)
class Gpu:
    """One model of GPU.

    Attributes:
        name: our name for it, such as `H100-SXM5-80GB`; `cpu` for no GPU.
        product: the name that `nvidia-smi` prints.
        capability: compute capability, such as (9, 0); (0, 0) for `cpu`.
        memory_gb: memory in the units of its data sheet, such as 80.
    """

    name: str
    product: str
    capability: tuple[int, int]
    memory_gb: int

    @property
    def label(self) -> str:
        """The name as Kubernetes' GPU feature discovery writes it in `nvidia.com/gpu.product`."""
        return self.product.replace(" ", "-")

    @property
    def compute_capability(self) -> str:
        """The compute capability as NVIDIA writes it, such as `9.0`; empty for `cpu`."""
        return "" if self == CPU else f"{self.capability[0]}.{self.capability[1]}"

    def supports(self, precision: Precision) -> bool:
        """Whether the hardware computes in `precision`; a backend may still refuse it. Always true for `cpu`."""
        return self == CPU or self.capability >= FIRST_CAPABILITY.get(precision, (0, 0))


CPU = Gpu("cpu", "cpu", (0, 0), 0)
"""A target without a GPU."""

TABLE = (
    # Volta and Turing
    Gpu("V100-SXM2-16GB", "Tesla V100-SXM2-16GB", (7, 0), 16),
    Gpu("V100-SXM2-32GB", "Tesla V100-SXM2-32GB", (7, 0), 32),
    Gpu("V100-SXM3-32GB", "Tesla V100-SXM3-32GB", (7, 0), 32),
    Gpu("V100-PCIE-16GB", "Tesla V100-PCIE-16GB", (7, 0), 16),
    Gpu("V100-PCIE-32GB", "Tesla V100-PCIE-32GB", (7, 0), 32),
    Gpu("V100S-PCIE-32GB", "Tesla V100S-PCIE-32GB", (7, 0), 32),
    Gpu("V100-DGXS-32GB", "Tesla V100-DGXS-32GB", (7, 0), 32),
    Gpu("GV100", "Quadro GV100", (7, 0), 32),
    Gpu("T4", "Tesla T4", (7, 5), 16),
    Gpu("Quadro-RTX-8000", "Quadro RTX 8000", (7, 5), 48),
    Gpu("Quadro-RTX-6000", "Quadro RTX 6000", (7, 5), 24),
    Gpu("Quadro-RTX-5000", "Quadro RTX 5000", (7, 5), 16),
    Gpu("TITAN-RTX", "NVIDIA TITAN RTX", (7, 5), 24),
    # Ampere
    Gpu("A100-SXM4-40GB", "NVIDIA A100-SXM4-40GB", (8, 0), 40),
    Gpu("A100-SXM4-80GB", "NVIDIA A100-SXM4-80GB", (8, 0), 80),
    Gpu("A100-PCIE-40GB", "NVIDIA A100-PCIE-40GB", (8, 0), 40),
    Gpu("A100-PCIE-80GB", "NVIDIA A100 80GB PCIe", (8, 0), 80),
    Gpu("A100X", "NVIDIA A100X", (8, 0), 80),
    Gpu("A800-SXM4-80GB", "NVIDIA A800-SXM4-80GB", (8, 0), 80),
    Gpu("A800-PCIE-80GB", "NVIDIA A800 80GB PCIe", (8, 0), 80),
    Gpu("A800-40GB", "NVIDIA A800 40GB Active", (8, 0), 40),
    Gpu("A30", "NVIDIA A30", (8, 0), 24),
    Gpu("A30X", "NVIDIA A30X", (8, 0), 24),
    Gpu("A40", "NVIDIA A40", (8, 6), 48),
    Gpu("A16", "NVIDIA A16", (8, 6), 16),
    Gpu("A10", "NVIDIA A10", (8, 6), 24),
    Gpu("A10G", "NVIDIA A10G", (8, 6), 24),
    Gpu("A2", "NVIDIA A2", (8, 6), 16),
    Gpu("RTX-A6000", "NVIDIA RTX A6000", (8, 6), 48),
    Gpu("RTX-A5500", "NVIDIA RTX A5500", (8, 6), 24),
    Gpu("RTX-A5000", "NVIDIA RTX A5000", (8, 6), 24),
    Gpu("RTX-A4500", "NVIDIA RTX A4500", (8, 6), 20),
    Gpu("RTX-A4000", "NVIDIA RTX A4000", (8, 6), 16),
    Gpu("RTX-A2000-12GB", "NVIDIA RTX A2000 12GB", (8, 6), 12),
    Gpu("RTX-A2000", "NVIDIA RTX A2000", (8, 6), 6),
    Gpu("RTX-3090", "NVIDIA GeForce RTX 3090", (8, 6), 24),
    Gpu("RTX-3090-Ti", "NVIDIA GeForce RTX 3090 Ti", (8, 6), 24),
    # Ada Lovelace
    Gpu("L40S", "NVIDIA L40S", (8, 9), 48),
    Gpu("L40", "NVIDIA L40", (8, 9), 48),
    Gpu("L20", "NVIDIA L20", (8, 9), 48),
    Gpu("L4", "NVIDIA L4", (8, 9), 24),
    Gpu("L2", "NVIDIA L2", (8, 9), 24),
    Gpu("RTX-6000-Ada", "NVIDIA RTX 6000 Ada Generation", (8, 9), 48),
    Gpu("RTX-5880-Ada", "NVIDIA RTX 5880 Ada Generation", (8, 9), 48),
    Gpu("RTX-5000-Ada", "NVIDIA RTX 5000 Ada Generation", (8, 9), 32),
    Gpu("RTX-4500-Ada", "NVIDIA RTX 4500 Ada Generation", (8, 9), 24),
    Gpu("RTX-4000-Ada", "NVIDIA RTX 4000 Ada Generation", (8, 9), 20),
    Gpu("RTX-4000-SFF-Ada", "NVIDIA RTX 4000 SFF Ada Generation", (8, 9), 20),
    Gpu("RTX-2000-Ada", "NVIDIA RTX 2000 Ada Generation", (8, 9), 16),
    Gpu("RTX-4090", "NVIDIA GeForce RTX 4090", (8, 9), 24),
    Gpu("RTX-4090-D", "NVIDIA GeForce RTX 4090 D", (8, 9), 24),
    Gpu("RTX-4080", "NVIDIA GeForce RTX 4080", (8, 9), 16),
    Gpu("RTX-4080-SUPER", "NVIDIA GeForce RTX 4080 SUPER", (8, 9), 16),
    # Hopper
    Gpu("H100-SXM5-80GB", "NVIDIA H100 80GB HBM3", (9, 0), 80),
    Gpu("H100-PCIE-80GB", "NVIDIA H100 PCIe", (9, 0), 80),
    Gpu("H100-NVL-94GB", "NVIDIA H100 NVL", (9, 0), 94),
    Gpu("H800-SXM5-80GB", "NVIDIA H800", (9, 0), 80),
    Gpu("H800-PCIE-80GB", "NVIDIA H800 PCIe", (9, 0), 80),
    Gpu("H200-SXM5-141GB", "NVIDIA H200", (9, 0), 141),
    Gpu("H200-NVL-141GB", "NVIDIA H200 NVL", (9, 0), 141),
    Gpu("H20", "NVIDIA H20", (9, 0), 96),
    Gpu("H20-141GB", "NVIDIA H20-3e", (9, 0), 141),
    Gpu("GH200-96GB", "NVIDIA GH200 480GB", (9, 0), 96),
    Gpu("GH200-96GB-120GB", "NVIDIA GH200 120GB", (9, 0), 96),
    Gpu("GH200-144GB", "NVIDIA GH200 144G HBM3e", (9, 0), 144),
    # Blackwell
    Gpu("B100", "NVIDIA B100", (10, 0), 180),
    Gpu("B200", "NVIDIA B200", (10, 0), 180),
    Gpu("GB200", "NVIDIA GB200", (10, 0), 186),
    Gpu("B300", "NVIDIA B300 SXM6 AC", (10, 3), 288),
    Gpu("GB300", "NVIDIA GB300", (10, 3), 288),
    Gpu("RTX-PRO-6000-Server", "NVIDIA RTX PRO 6000 Blackwell Server Edition", (12, 0), 96),
    Gpu("RTX-PRO-6000-Workstation", "NVIDIA RTX PRO 6000 Blackwell Workstation Edition", (12, 0), 96),
    Gpu("RTX-PRO-6000-Max-Q", "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", (12, 0), 96),
    Gpu("RTX-PRO-5000", "NVIDIA RTX PRO 5000 Blackwell", (12, 0), 48),
    Gpu("RTX-PRO-4500", "NVIDIA RTX PRO 4500 Blackwell", (12, 0), 32),
    Gpu("RTX-PRO-4000", "NVIDIA RTX PRO 4000 Blackwell", (12, 0), 24),
    Gpu("RTX-PRO-4000-SFF", "NVIDIA RTX PRO 4000 Blackwell SFF Edition", (12, 0), 24),
    Gpu("RTX-PRO-2000", "NVIDIA RTX PRO 2000 Blackwell", (12, 0), 16),
    Gpu("RTX-5090", "NVIDIA GeForce RTX 5090", (12, 0), 32),
    Gpu("RTX-5090-D", "NVIDIA GeForce RTX 5090 D", (12, 0), 32),
    Gpu("RTX-5080", "NVIDIA GeForce RTX 5080", (12, 0), 16),
    Gpu("GB10", "NVIDIA GB10", (12, 1), 128),
)


def _normalized(name: str) -> str:
    """A name without the parts that tools write differently: case, spaces, dashes, `NVIDIA`, suffix of time-slicing."""
    shortened = re.sub(r"[\s_-]+", "", name.casefold().removesuffix("-shared"))
    return shortened.removeprefix("nvidia")


_BY_NAME = {_normalized(name): gpu for gpu in (CPU, *TABLE) for name in (gpu.name, gpu.product)}


def find(name: str) -> Gpu:
    """The GPU of this name: ours, or that of `nvidia-smi` or Kubernetes. Case, spaces and dashes do not matter.

    Raises:
        UsageError: when it is not in the table; the error suggests similar names.
    """
    gpu = _BY_NAME.get(_normalized(name))
    if gpu is None:
        names = ", ".join(_similar(_normalized(name)))
        hint = f"use one that is known, such as {names}" if names else "use `cpu` or a name such as H100-SXM5-80GB"
        raise UsageError(f"unknown GPU {name!r}", subject="gpu", remedy=f"{hint}; or add it to enginery/spec/gpus.py")
    return gpu


def _similar(plain: str) -> list[str]:
    """Names that the user may have meant: every variant of a model such as `H100`, else the most similar names."""
    variants = [gpu.name for gpu in TABLE if plain and _normalized(gpu.name).startswith(plain)]
    near = difflib.get_close_matches(plain, _BY_NAME, n=NEAR, cutoff=0.5)
    return list(dict.fromkeys(variants or [_BY_NAME[key].name for key in near]))


def detect() -> Gpu | None:
    """The first GPU that `nvidia-smi` lists on this machine; None if there is no GPU.

    For a GPU that is not in the table, name, capability and memory come from `nvidia-smi`.

    Raises:
        UsageError: when `nvidia-smi` is installed but does not work.
    """
    return next(iter(detect_all()), None)


def detect_all() -> tuple[Gpu, ...]:
    """Every GPU of this machine, in the order of `nvidia-smi`; described as by `detect`.

    Raises:
        UsageError: when `nvidia-smi` is installed but does not work.
    """
    if shutil.which(QUERY[0]) is None:
        return ()
    problem = ""
    try:
        lines = process.run(QUERY, timeout=QUERY_SECONDS).last_lines
    except CommandError as error:
        lines, problem = error.last_lines, error.problem
    if any("No devices were found" in line for line in lines):
        return ()
    found = tuple(gpu for line in lines if (gpu := _listed(line)))
    if problem or not found:
        reason = problem or f"its answer was {' / '.join(lines)!r}"
        remedy = "repair the NVIDIA driver, or name the target's gpu, such as cpu"
        raise UsageError(f"nvidia-smi does not say which GPU this is: {reason}", subject="gpu", remedy=remedy)
    return found


def _listed(line: str) -> Gpu | None:
    """The GPU in one line of the query's output; None if the line is a message.

    If a GPU shares the memory of the machine, the line has no number for its memory.
    """
    match = re.fullmatch(r"\s*(.+?),\s*(\d+)\.(\d+),\s*(\d+|\[.*\])\s*", line)
    if match is None:
        return None
    product, major, minor, memory = match.groups()
    name = re.sub(r"[^\w.]+", "-", product.removeprefix("NVIDIA ")).strip("-")
    gigabytes = round(int(memory) / MIB_PER_GB) if memory.isdecimal() else 0
    return _BY_NAME.get(_normalized(product)) or Gpu(name, product, (int(major), int(minor)), gigabytes)

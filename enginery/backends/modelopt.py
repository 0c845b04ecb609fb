"""NVIDIA ModelOpt as both backends of TensorRT-LLM use it: Enginery's driver, and the toolchain it runs in."""

from packaging.version import Version

from enginery import toolchains
from enginery.drivers import DRIVERS
from enginery.errors import ToolchainError
from enginery.spec import Precision

DRIVER = DRIVERS / "convert_modelopt.py"
MODELOPT = "modelopt"
PREFIX = f"{MODELOPT}-"
BLOCKS = {Precision.INT4_AWQ: 128, Precision.W4A8_AWQ: 128, Precision.NVFP4: 16}
"""How many weights in a row share one scale: each GPU's part of a row must be whole blocks."""


def modelopt_toolchain() -> str:
    """The newest toolchain with ModelOpt.

    Raises:
        ToolchainError: when there is none.
    """
    found = [name for name in toolchains.names() if name.startswith(PREFIX)]
    if not found:
        remedy = "pin one (see infra/toolchains/README.md)"
        raise ToolchainError("there is no toolchain with ModelOpt", subject=MODELOPT, remedy=remedy)
    return max(found, key=lambda name: Version(name.removeprefix(PREFIX)))

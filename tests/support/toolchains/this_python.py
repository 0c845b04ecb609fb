"""A toolchain that is the Python of the tests, for steps that run small scripts."""

import os
import sys
from pathlib import Path

from enginery.toolchains.host import Host
from enginery.toolchains.identity import ToolchainIdentity


def this_python() -> Host:
    """The toolchain."""
    identity = ToolchainIdentity(name="this-python", kind="host", pins=(), python="3.11")
    python = Path(sys.executable)
    return Host(identity, python.parent, python, dict(os.environ))

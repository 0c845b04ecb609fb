"""Asking a toolchain: a short command in it, and the lines it prints."""

import os
from collections.abc import Sequence
from pathlib import Path

from enginery.context import Log
from enginery.probing import Probe, probe_command, read_probe
from enginery.release_pins import PACKAGE
from enginery.toolchain_types import Toolchain

ASK_SECONDS = 900.0
"""A first `import tensorrt_llm` from a cold network disk takes minutes."""


def ask(toolchain: Toolchain, argv: Sequence[str], log: Log = lambda _line: None) -> list[str]:
    """Run a command in a toolchain from the root directory, where no module is found by accident.

    Args:
        toolchain: the toolchain; a container gets this machine's GPUs, its home directory, and no network.
        argv: the command.
        log: told each line too.

    Returns:
        Every line it printed.

    Raises:
        CommandError: when it cannot be started or fails.
    """
    lines: list[str] = []

    def keep(line: str) -> None:
        lines.append(line)
        log(line)

    if toolchain.identity.kind == "container":
        from enginery import docker  # noqa: PLC0415  a plan starts none

        gpus = docker.gpus_argument(os.environ)
        box = docker.Box(image=toolchain.image, name_hint="ask", home=docker.container_home(), gpus=gpus)
        docker.run_box(box, argv, environment=toolchain.environment, log=keep, timeout=ASK_SECONDS)
    else:
        from enginery import process  # noqa: PLC0415  as above

        process.run(argv, cwd=Path("/"), env=toolchain.environment, log=keep, timeout=ASK_SECONDS)
    return lines[1:]  # the first is the command itself


def release_found(toolchain: Toolchain) -> dict[str, str]:
    """What is to be remembered of a toolchain of TensorRT-LLM: what it can do; nothing of other toolchains.

    Raises:
        CommandError: when its Python does not work.
    """
    if not toolchain.identity.version(PACKAGE):
        return {}
    from enginery.release_probe import probe_release, remembered  # noqa: PLC0415  most have no TensorRT-LLM

    return remembered(probe_release(toolchain))


def look_into(toolchain: Toolchain, modules: Sequence[str], log: Log = lambda _line: None) -> Probe:
    """Ask a toolchain which Python, packages and modules it has.

    Raises:
        CommandError: when its Python does not work.
    """
    return read_probe(ask(toolchain, (str(toolchain.python), *probe_command(modules)), log))

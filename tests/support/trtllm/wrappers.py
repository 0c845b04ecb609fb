"""The files of a stand-in: commands on PATH, scripts under examples/, and packages for the interpreter."""

import shlex
import sys
from pathlib import Path

from enginery.releases.flags import BUILD, commands, flags_of, script
from tests.support.paths import CHECKOUT

NOTE = "A stand-in made for tests. It is no TensorRT-LLM."
SITE = "site"

SCRIPT = '''"""{note}"""

from tests.support.trtllm.commands.command import main

main({directory!r}, {command!r})
'''

PACKAGE = '''"""{note}"""

import sys

from tests.support.trtllm.modules.tensorrt_llm_like import install

__version__ = {version!r}
install(sys.modules[__name__], {directory!r})
'''

PART = '''"""{note}"""

import sys

from tests.support.trtllm.modules.{name}_like import install

install(sys.modules[__name__], {directory!r})
'''

STUB = '''"""{note} This is how a placeholder package behaves."""

raise ImportError("tensorrt_llm: this is a placeholder package; install the real one from NVIDIA's index")
'''


def write(directory: Path, release: str, tensorrt: str) -> None:
    _commands(directory, release)
    _packages(directory, release, tensorrt)
    # A checkout contains the number of its release.
    _file(directory / "tensorrt_llm" / "version.py", f'"""{NOTE}"""\n\n__version__ = "{release}"\n')
    for command in commands():
        where = None if command == BUILD else script(release, command).value
        if where is not None:
            text = SCRIPT.format(note=NOTE, directory=str(directory), command=command)
            _file(directory / where, text)


def remove_command(directory: Path, release: str, command: str) -> None:
    """Remove a command. Without `trtllm-build` the module becomes a placeholder too."""
    where = None if command == BUILD else script(release, command).value
    (directory / (where or f"bin/{command}")).unlink(missing_ok=True)
    if command == BUILD:
        _file(directory / SITE / "tensorrt_llm" / "__init__.py", STUB.format(note=NOTE))


def _commands(directory: Path, release: str) -> None:
    places = f"{directory / SITE}:{CHECKOUT}"
    python = f"PYTHONPATH={shlex.quote(places)} exec {shlex.quote(sys.executable)}"
    for name in ("python3", "python"):
        _program(directory / "bin" / name, f'{python} "$@"')
    own = [("mpirun", "mpirun"), ("nvidia-smi", "nvidia_smi")]
    for name, module in own:
        call = f'-m tests.support.trtllm.commands.{module} {shlex.quote(str(directory))} "$@"'
        _program(directory / "bin" / name, f"{python} {call}")
    if flags_of(release, BUILD).value:
        call = f'-m tests.support.trtllm.commands.command {shlex.quote(str(directory))} {BUILD} "$@"'
        _program(directory / "bin" / BUILD, f"{python} {call}")


def _packages(directory: Path, release: str, tensorrt: str) -> None:
    site = directory / SITE
    versions = {"tensorrt_llm": release} | ({"tensorrt": tensorrt} if tensorrt else {})
    _file(site / "tensorrt_llm" / "__init__.py", PACKAGE.format(note=NOTE, version=release, directory=str(directory)))
    for name in ("torch", "transformers", *(("tensorrt",) if tensorrt else ())):
        _file(site / f"{name}.py", PART.format(note=NOTE, name=name, directory=str(directory)))
    for name, version in versions.items():
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        _file(site / f"{name}-{version}.dist-info" / "METADATA", metadata)


def _program(path: Path, line: str) -> None:
    _file(path, f"#!/bin/sh\n# {NOTE}\n{line}\n")
    path.chmod(0o755)


def _file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")

"""The beginning of every command of the stand-in: it records the call, reads the flags, and finds out how to fail."""

import argparse
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tests.support.trtllm import facts
from tests.support.trtllm.commands.parser import parser
from tests.support.trtllm.home import Home, say
from tests.support.trtllm.misbehaviour import Ways, ways_of

WORKERS = {
    "trtllm-build": "build",
    "quantize.py": "quantize",
    "run.py": "run_script",
    "convert_checkpoint.py": "convert",
}


@dataclass(frozen=True)
class Run:
    """One run of a command. `command` is its name in `enginery.releases.flags`; `ways` are how it fails."""

    home: Home
    command: str
    arguments: argparse.Namespace
    ways: Ways

    @property
    def release(self) -> str:
        return self.home.release

    def given(self, name: str, default: object = None) -> object:
        """The value of a flag; `default` if the release does not have the flag."""
        return getattr(self.arguments, name, default)


def main(directory: str, command: str) -> None:
    """Run a command of the stand-in in a directory."""
    home = Home(Path(directory))
    home.record(command, sys.argv[1:])
    greet(home.release)
    ways = ways_of(home, command)
    arguments = parser(home.release, command, ways.hidden_flags()).parse_args()
    cache = getattr(arguments, "input_timing_cache", None) or getattr(arguments, "timing_cache", None)
    ways.begin(cache)
    worker = WORKERS[command.split(maxsplit=1)[0]]
    import_module(f"tests.support.trtllm.commands.{worker}").run(Run(home, command, arguments, ways))


def greet(release: str) -> None:
    """Print what importing the module prints; in 0.8 without a line end."""
    name = "TensorRT LLM" if facts.at_least(release, "1.2.0") else "TensorRT-LLM"
    end = "\n" if facts.at_least(release, "0.9.0") else ""
    say(sys.stdout, f"[TensorRT-LLM] {name} version: {release}{end}")


if __name__ == "__main__":
    place, name = sys.argv[1:3]
    sys.argv = [name, *sys.argv[3:]]
    main(place, name)

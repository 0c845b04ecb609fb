"""The ways in which a test can make the stand-in's commands fail.

A way acts when the command begins (`noise_on_stderr`, `slow`, `hang`, `bad_timing_cache`), in the middle of its work,
when only `config.json` is written (`killed`, `gpu_out_of_memory`, …), or on its finished output (`rank_missing`,
`truncated_engine`, …).
"""

import errno
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.trtllm import home
from tests.support.trtllm.home import Home

Details = Mapping[str, Any]
ALSO_137 = 137

GPU_MEMORY = (
    "CUDA out of memory. Tried to allocate 224.00 MiB. GPU 0 has a total capacity of 79.11 GiB"
    " of which 170.56 MiB is free."
)


class OutOfMemoryError(RuntimeError):
    """Has the name of PyTorch's error, which appears in a traceback."""

    __module__ = "torch"


@dataclass(frozen=True)
class Ways:
    """The failures of one run of a command: name -> details."""

    active: Mapping[str, Details]
    home: Home

    def begin(self, timing_cache: str | None) -> None:
        """Make the failures that happen before the command's work."""
        self._apply(BEGIN)
        if "bad_timing_cache" in self.active and timing_cache and Path(timing_cache).exists():
            _bad_timing_cache(self.active["bad_timing_cache"])

    def during(self) -> None:
        """Make the failures that happen in the middle of the command's work."""
        self._apply(DURING)

    def spoil(self, output: Path) -> None:
        """Damage the output after the work, while the command still ends with success."""
        for how, act in SPOIL.items():
            if how in self.active:
                act(output, self.active[how])

    def hidden_flags(self) -> tuple[str, ...]:
        """The flags that are refused although the release has them."""
        return tuple(self.active["unknown_flag"]["flags"]) if "unknown_flag" in self.active else ()

    def _apply(self, acts: Mapping[str, Callable[[Home, Details], None]]) -> None:
        for how, act in acts.items():
            if how in self.active:
                act(self.home, self.active[how])


def ways_of(own: Home, command: str) -> Ways:
    """The failures of the run of a command that was recorded last."""
    # `--help` does not count as a run, so it uses up no failure.
    mine = [call for call in own.calls() if call.rank == home.rank() and call.argv != ("--help",)]
    active = {}
    for one in own.control["misbehaviours"]:
        since = sum(call.is_of(one["command"]) for call in mine if call.number >= one["from"])
        held = one["times"] is None or since <= one["times"]
        here = one["rank"] is None or one["rank"] == home.rank()
        if home.is_of(command, one["command"]) and held and here:
            active[one["how"]] = one["details"]
    return Ways(active, own)


def _noise(_own: Home, details: Details) -> None:
    for number in range(details.get("lines", 5000)):
        home.warn(f"[{number:06}] UserWarning: this is noise, nothing more is wrong")


def _slow(_own: Home, details: Details) -> None:
    time.sleep(details.get("seconds", 1.0))


def _hang(own: Home, _details: Details) -> None:
    """Sleep until killed, with a child that does the same. Their process ids go into the stand-in's directory."""
    pids = own.directory / home.HANGING
    pids.mkdir(exist_ok=True)
    os.fork()
    (pids / str(os.getpid())).touch()
    while True:
        signal.pause()


def _bad_timing_cache(details: Details) -> None:
    home.log("Error Code 2: Internal Error (Assertion cache.size() > 0 failed. )", "E", "TRT")
    if details.get("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


def _killed(_own: Home, _details: Details) -> None:
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)


def _host_memory(_own: Home, _details: Details) -> None:
    home.warn("Killed")
    os._exit(ALSO_137)


def _gpu_memory(_own: Home, _details: Details) -> None:
    home.log("Requested amount of GPU memory (8589934592 bytes) could not be allocated.", "E", "TRT")
    raise OutOfMemoryError(GPU_MEMORY)


def _disk_full(_own: Home, _details: Details) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _rank_missing(output: Path, _details: Details) -> None:
    ranks(output)[-1].unlink()


def _truncated(output: Path, details: Details) -> None:
    last = ranks(output)[-1]
    last.write_bytes(last.read_bytes()[: details.get("bytes", 0)])


def _nothing_written(output: Path, details: Details) -> None:
    for path in ranks(output):
        path.unlink()
    if not details.get("config", False):
        shutil.rmtree(output)
        output.mkdir()


def _other_world(output: Path, _details: Details) -> None:
    config = json.loads((output / "config.json").read_text())
    mapping = config.get("pretrained_config", config)["mapping"]
    mapping["tp_size"] *= 2
    mapping["world_size"] *= 2
    (output / "config.json").write_text(json.dumps(config, indent=4))


def _other_rope(output: Path, details: Details) -> None:
    config = json.loads((output / "config.json").read_text())
    config["rotary_base"] = details.get("rotary_base", 10000.0)
    config["rotary_scaling"] = None
    (output / "config.json").write_text(json.dumps(config, indent=4))


def ranks(output: Path) -> list[Path]:
    """The rank files of an engine or a checkpoint, in the order of the ranks."""
    found = [path for path in output.glob("rank*") if path.suffix in {".engine", ".safetensors"}]
    return sorted(found, key=lambda path: int(path.stem.removeprefix("rank")))


BEGIN: Mapping[str, Callable[[Home, Details], None]] = {"noise_on_stderr": _noise, "slow": _slow, "hang": _hang}
DURING: Mapping[str, Callable[[Home, Details], None]] = {
    "killed": _killed,
    "host_out_of_memory": _host_memory,
    "gpu_out_of_memory": _gpu_memory,
    "disk_full": _disk_full,
}
SPOIL: Mapping[str, Callable[[Path, Details], None]] = {
    "world_size_mismatch": _other_world,
    "loses_rope": _other_rope,
    "truncated_engine": _truncated,
    "rank_missing": _rank_missing,
    "exit_0_without_engine": _nothing_written,
}
NAMES = frozenset({*BEGIN, *DURING, *SPOIL, "bad_timing_cache", "unknown_flag", "not_there"})

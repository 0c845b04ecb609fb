"""Checks the engine that `trtllm-build` wrote, and explains why a build failed."""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from enginery.core.digests import json_digest
from enginery.core.errors import CommandError
from enginery.core.process import WARNING, FailureCause, failure_of
from enginery.core.versions import same
from enginery.store import StepContext

CONFIG = "config.json"
SECTIONS = ("version", "pretrained_config", "build_config")

LIMITS = (
    "max_batch_size",
    "max_input_len",
    "max_output_len",
    "max_seq_len",
    "max_num_tokens",
    "opt_num_tokens",
    "max_beam_width",
    "max_prompt_embedding_table_size",
)
"""Limits of a running engine. The release fills in the limits that the command leaves out."""

NOT_OF_THE_ENGINE = ("input_timing_cache", "output_timing_cache", "dry_run", "visualize_network")
"""Keys of `build_config` that describe the build and not the engine."""
RANK_FILE = re.compile(r"rank(\d+)\.engine")
AGAIN = "; nothing was kept"

REMEDIES = {
    FailureCause.GPU_MEMORY: "end other programs on the GPU (nvidia-smi), lower build.max_batch_size,"
    " build.max_num_tokens or build.max_seq_len, or raise the target's tensor_parallel; nothing was kept",
    FailureCause.HOST_MEMORY: "lower build.workers, end other programs that use this machine's memory, or build on one"
    " with more; nothing was kept",
    FailureCause.GPU_NOT_VISIBLE: "trtllm-build needs the target's GPU: check with nvidia-smi that it is there, that"
    " CUDA_VISIBLE_DEVICES names it, and that a container was started with it",
    FailureCause.TIMEOUT: "look at its last lines for where it hangs (ranks that wait for each other, a full disk);"
    " all its processes have ended, and nothing was kept",
    FailureCause.KILLED: "build again; if it crashes at the same place, find the plugin or option that causes it by"
    " leaving them out, and report that to TensorRT-LLM; nothing was kept",
}
"""Cause -> what to do about a failed build, where this is more helpful than the remedy for any command."""

BLAMED = re.compile(
    r"timing.?cache|"
    # TensorRT's messages when a bad cache makes it fail: NVIDIA/TensorRT issues 3566 and 2144.
    r"Assertion cache|StdArchiveReader|magicTagRead",
    re.IGNORECASE,
)

REFUSED = re.compile(
    r"timing cache will not be used|invalid timing cache|deserialize the timing cache|different TensorRT version"
    r"|timing cache.*(mismatch|ignor|not compatible|corrupt)",
    re.IGNORECASE,
)

LONG_FLAG = re.compile(r"(?<![\w-])--[A-Za-z][\w-]*")


class WantedEngine(BaseModel):
    """What the engine must be, and which release of TensorRT-LLM builds it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    release: str
    tensor_parallel: int = Field(default=1, ge=1)
    pipeline_parallel: int = Field(default=1, ge=1)

    @property
    def world_size(self) -> int:
        """The number of GPUs that the engine uses."""
        return self.tensor_parallel * self.pipeline_parallel


@dataclass(frozen=True)
class Engine:
    """A complete engine.

    Attributes:
        sizes: rank file -> bytes.
    """

    config: Mapping[str, Any]
    sizes: Mapping[str, int]

    @property
    def limits(self) -> dict[str, JsonValue]:
        """The engine's limits. Limits that its release does not have are left out."""
        return {name: self.config["build_config"][name] for name in LIMITS if name in self.config["build_config"]}

    @property
    def shape(self) -> str:
        """A digest of everything in the configuration that decides how long the build takes."""
        build = {name: value for name, value in self.config["build_config"].items() if name not in NOT_OF_THE_ENGINE}
        return json_digest([self.config["version"], self.config["pretrained_config"], build])


def read_engine(directory: Path, wanted: WantedEngine, last_lines: Sequence[str] = ()) -> Engine:
    """The engine in a directory, checked.

    Args:
        directory: where `trtllm-build` wrote.
        wanted: what the engine must be.
        last_lines: the command's last lines, which may explain a missing file.

    Raises:
        CommandError: when the engine is not complete, or not the one that is wanted.
    """
    if not any(directory.glob("rank*.engine")):
        left = ", ".join(sorted(path.name for path in directory.iterdir())) or "nothing"
        problem = f"trtllm-build ended with exit status 0 but wrote no engine (it wrote {left})"
        raise _incomplete(problem, "read its last lines for the error that it did not report", last_lines)
    config = _read_config(directory, last_lines)
    found = str(config["version"])
    if not same(found, wanted.release):
        problem = f"the engine was built by TensorRT-LLM {found}, expected {wanted.release}"
        remedy = f"correct the toolchain (enginery toolchain check), or set the target's release to {found}{AGAIN}"
        raise _error(problem, remedy)
    _require_mapping(config["pretrained_config"], wanted)
    return Engine(config, _read_sizes(directory, wanted.world_size, last_lines))


def blames_timing_cache(error: CommandError) -> bool:
    """Whether a build may have failed because of its timing cache."""
    possible = {FailureCause.UNKNOWN, FailureCause.KILLED}
    # A warning about a cache does not count: such a build goes on without the cache.
    errors = (line for line in error.last_lines if not WARNING.search(line))
    return error.cause in possible and any(BLAMED.search(line) for line in errors)


def refused_timing_cache(lines: Iterable[str]) -> bool:
    """Whether a successful build printed that it did not use its timing cache."""
    return any(REFUSED.search(line) for line in lines)


def explain(error: CommandError, context: StepContext, argv: Sequence[str], release: str) -> CommandError:
    """The same error, with a remedy for builds."""
    problem, remedy = error.problem, REMEDIES.get(FailureCause(error.cause), error.remedy)
    if error.cause == FailureCause.UNKNOWN_FLAG:
        unknown = _unknown_flags(context, argv)
        if unknown:
            problem = f"trtllm-build of this toolchain has no {', '.join(unknown)}, which release {release} should have"
            remedy = (
                f"make sure that the toolchain is {release} (enginery toolchain check), or set the target's release to"
                " the toolchain's; if the flag comes from build.extra_args, leave it out"
            )
    return CommandError(problem, subject=error.subject, remedy=remedy, cause=error.cause, last_lines=error.last_lines)


def _read_config(directory: Path, last_lines: Sequence[str]) -> dict[str, Any]:
    path = directory / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        remedy = f"build again; if this happens again, look at the last lines{AGAIN}"
        raise _error(f"the engine's {CONFIG} cannot be read: {error}", remedy, last_lines) from error
    missing = [name for name in SECTIONS if name not in config]
    if missing:
        remedy = "use trtllm-build of the release that the spec names: scripts from before 0.8 write such a file"
        raise _error(f"the engine's {CONFIG} has no {' and no '.join(missing)}", remedy, last_lines)
    return dict(config)


def _require_mapping(pretrained: Mapping[str, Any], wanted: WantedEngine) -> None:
    mapping = pretrained.get("mapping", {})
    expected = {
        "world_size": wanted.world_size,
        "tp_size": wanted.tensor_parallel,
        "pp_size": wanted.pipeline_parallel,
    }
    wrong = [
        f"{name} is {mapping.get(name, 'missing')} and not {value}"
        for name, value in expected.items()
        if mapping.get(name) != value
    ]
    if wrong:
        raise _error(
            f"the engine is not split as expected: {', '.join(wrong)}",
            "the checkpoint decides this: convert it again with the spec's tensor_parallel and pipeline_parallel"
            f" (remove that step from the store if it was damaged){AGAIN}",
        )


def _read_sizes(directory: Path, world_size: int, last_lines: Sequence[str]) -> dict[str, int]:
    found = {path.name: path.stat().st_size for path in directory.glob("rank*.engine")}
    wanted = [f"rank{number}.engine" for number in range(world_size)]
    wrong = {
        "missing": [name for name in wanted if name not in found],
        "empty": [name for name in wanted if found.get(name) == 0],
        "too many": sorted(set(found) - set(wanted)),
    }
    problems = [f"{', '.join(names)} {what}" for what, names in wrong.items() if names]
    if problems:
        problem = f"the engine for {world_size} GPUs is not complete: {'; '.join(problems)}"
        remedy = "look for a rank's error in the log above, look at how full the disk is, and build again"
        raise _incomplete(problem, remedy + AGAIN, last_lines)
    return {name: found[name] for name in wanted}


def _incomplete(problem: str, remedy: str, last_lines: Sequence[str]) -> CommandError:
    """The error for an incomplete engine. The command reported success, but its last lines may say what failed."""
    failure = failure_of(0, last_lines)
    if failure.cause is FailureCause.UNKNOWN:
        return _error(problem, remedy, last_lines)
    return _error(f"{problem}: {failure.meaning}", failure.remedy, last_lines, failure.cause)


def _error(
    problem: str, remedy: str, last_lines: Sequence[str] = (), cause: FailureCause = FailureCause.INCOMPLETE
) -> CommandError:
    return CommandError(problem, subject="trtllm-build", remedy=remedy, cause=cause, last_lines=last_lines)


def _unknown_flags(context: StepContext, argv: Sequence[str]) -> list[str]:
    """The command's flags that are not in its own `--help`; none if it prints no help."""
    lines: list[str] = []
    unrecorded = dataclasses.replace(context, log=lines.append, completed=[])
    try:
        unrecorded.run([argv[0], "--help"])
    except CommandError:
        return []
    known = {name for line in lines[1:] for name in LONG_FLAG.findall(line)}
    return sorted({name for word in argv for name in LONG_FLAG.findall(word.partition("=")[0])} - known)

"""What `trtllm-build` left behind: whether it is the whole engine that was asked for, and what it says of itself."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from enginery.digests import json_digest
from enginery.errors import CommandError
from enginery.failures import FailureCause, failure_of
from enginery.versions import same

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
"""What a running engine can take at most; the release has filled in what the command left open."""

OF_THE_RUN = ("input_timing_cache", "output_timing_cache", "dry_run", "visualize_network")
"""What releases write into `build_config` although it says nothing of the engine."""

RANK_FILE = re.compile(r"rank(\d+)\.engine")
AGAIN = "; nothing was kept"


@dataclass(frozen=True)
class Wanted:
    """The engine that was asked for.

    Attributes:
        release: the TensorRT-LLM that builds it.
        tensor_parallel: GPUs that share each layer.
        pipeline_parallel: groups of layers.
    """

    release: str
    tensor_parallel: int
    pipeline_parallel: int

    @property
    def world_size(self) -> int:
        """GPUs that the engine takes."""
        return self.tensor_parallel * self.pipeline_parallel


@dataclass(frozen=True)
class Engine:
    """An engine that is whole.

    Attributes:
        config: what is in its `config.json`.
        sizes: rank file -> bytes.
    """

    config: Mapping[str, Any]
    sizes: Mapping[str, int]

    @property
    def limits(self) -> dict[str, JsonValue]:
        """The numbers a user of the engine must keep to, as far as this release has them."""
        return {name: self.config["build_config"][name] for name in LIMITS if name in self.config["build_config"]}

    @property
    def shape(self) -> str:
        """A digest of all that decides how long a build takes."""
        build = {name: value for name, value in self.config["build_config"].items() if name not in OF_THE_RUN}
        return json_digest([self.config["version"], self.config["pretrained_config"], build])


def read_engine(directory: Path, wanted: Wanted, last_lines: Sequence[str] = ()) -> Engine:
    """The engine in a directory, checked.

    Args:
        directory: where `trtllm-build` wrote.
        wanted: what was asked for.
        last_lines: what the command printed last, to say why something is not there.

    Raises:
        CommandError: when it is not the whole engine that was asked for.
    """
    if not any(directory.glob("rank*.engine")):
        raise _no_engine(directory, last_lines)
    config = _read_config(directory, last_lines)
    _require_release(str(config["version"]), wanted.release)
    _require_mapping(config["pretrained_config"], wanted)
    return Engine(config, _read_sizes(directory, wanted.world_size, last_lines))


def _no_engine(directory: Path, last_lines: Sequence[str]) -> CommandError:
    """The command ended well and wrote nothing: what it printed may say why."""
    failure = failure_of(0, last_lines)
    left = ", ".join(sorted(path.name for path in directory.iterdir())) or "nothing"
    why = f": {failure.meaning}" if failure.cause is not FailureCause.UNKNOWN else ""
    remedy = "read its last lines for the error that it did not report"
    return _error(
        f"trtllm-build ended with exit status 0 but wrote no engine (it wrote {left}){why}",
        failure.remedy if why else remedy,
        last_lines,
        failure.cause,
    )


def _read_config(directory: Path, last_lines: Sequence[str]) -> dict[str, Any]:
    path = directory / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        remedy = f"build again, and look at the last lines if it stays so{AGAIN}"
        raise _error(f"the engine's {CONFIG} cannot be read: {error}", remedy, last_lines) from error
    missing = [name for name in SECTIONS if name not in config]
    if missing:
        remedy = "take trtllm-build of the release that the spec names: scripts from before 0.8 write such a file"
        raise _error(f"the engine's {CONFIG} has no {' and no '.join(missing)}", remedy, last_lines)
    return dict(config)


def _require_release(found: str, wanted: str) -> None:
    if same(found, wanted):
        return
    raise _error(
        f"the engine was built by TensorRT-LLM {found}, asked for was {wanted}",
        f"correct the toolchain (enginery toolchain check), or set the target's release to {found}{AGAIN}",
    )


def _require_mapping(pretrained: Mapping[str, Any], wanted: Wanted) -> None:
    mapping = pretrained.get("mapping", {})
    expected = {
        "world_size": wanted.world_size,
        "tp_size": wanted.tensor_parallel,
        "pp_size": wanted.pipeline_parallel,
    }
    wrong = [
        f"{name} is {mapping.get(name, 'not there')} and not {value}"
        for name, value in expected.items()
        if mapping.get(name) != value
    ]
    if wrong:
        raise _error(
            f"the engine is cut otherwise than asked for: {', '.join(wrong)}",
            "the checkpoint decides this: convert it again with the spec's tensor_parallel and pipeline_parallel"
            f" (remove that step from the store if it was damaged){AGAIN}",
        )


def _read_sizes(directory: Path, world_size: int, last_lines: Sequence[str]) -> dict[str, int]:
    found = {path.name: path.stat().st_size for path in directory.glob("rank*.engine")}
    wanted = [f"rank{number}.engine" for number in range(world_size)]
    missing = [name for name in wanted if name not in found]
    empty = [name for name in wanted if found.get(name) == 0]
    extra = sorted(set(found) - set(wanted))
    problems = [
        *([f"{', '.join(missing)} missing"] if missing else []),
        *([f"{', '.join(empty)} empty"] if empty else []),
        *([f"{', '.join(extra)} too many"] if extra else []),
    ]
    if problems:
        failure = failure_of(0, last_lines)
        known = failure.cause is not FailureCause.UNKNOWN
        remedy = "look for a rank's error in the log above, at how full the disk is, and build again"
        raise _error(
            f"the engine for {world_size} GPUs is not whole: {'; '.join(problems)}"
            + (f" ({failure.meaning})" if known else ""),
            failure.remedy if known else remedy + AGAIN,
            last_lines,
            failure.cause,
        )
    return {name: found[name] for name in wanted}


def _error(
    problem: str, remedy: str, last_lines: Sequence[str] = (), cause: FailureCause = FailureCause.INCOMPLETE
) -> CommandError:
    named = FailureCause.INCOMPLETE if cause is FailureCause.UNKNOWN else cause
    return CommandError(problem, subject="trtllm-build", remedy=remedy, cause=named, last_lines=last_lines)

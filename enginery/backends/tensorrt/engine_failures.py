"""Failures of `trtllm-build` in words that help with a build."""

import dataclasses
import re
from collections.abc import Iterable, Sequence

from enginery.context import StepContext
from enginery.errors import CommandError
from enginery.failures import WARNING, FailureCause

REMEDIES = {
    FailureCause.GPU_MEMORY: "end what else uses the GPU (nvidia-smi), lower build.max_batch_size, build.max_num_tokens"
    " or build.max_seq_len, or raise the target's tensor_parallel; nothing was kept",
    FailureCause.HOST_MEMORY: "lower build.workers, end what else uses this machine's memory, or build on one with"
    " more; nothing was kept",
    FailureCause.GPU_NOT_VISIBLE: "trtllm-build needs the target's GPU: check with nvidia-smi that it is there, that"
    " CUDA_VISIBLE_DEVICES names it, and that a container was started with it",
    FailureCause.TIMEOUT: "look at its last lines for where it hangs (ranks that wait for each other, a full disk);"
    " nothing it had started is left running, and nothing was kept",
    FailureCause.KILLED: "build again; if it crashes at the same place, leave out plugins and options until it does"
    " not, and report that to TensorRT-LLM; nothing was kept",
}
"""What to do about a failure of a build, where there is more to say than for any command."""

BLAMED = re.compile(
    r"timing.?cache|"
    # What TensorRT says when it trips over one: NVIDIA/TensorRT issues 3566 and 2144.
    r"Assertion cache|StdArchiveReader|magicTagRead",
    re.IGNORECASE,
)
REFUSED = re.compile(
    r"timing cache will not be used|invalid timing cache|deserialize the timing cache|different TensorRT version"
    r"|timing cache.*(mismatch|ignor|not compatible|corrupt)",
    re.IGNORECASE,
)
LONG_FLAG = re.compile(r"(?<![\w-])--[A-Za-z][\w-]*")


def blames_timing_cache(error: CommandError) -> bool:
    """Whether a build that was given a timing cache may have failed because of it."""
    known = {FailureCause.UNKNOWN, FailureCause.KILLED}
    return error.cause in known and any(BLAMED.search(line) for line in error.last_lines if _is_error(line))


def _is_error(line: str) -> bool:
    """Whether a line is no mere warning, as builds print them about caches that they do well without."""
    return not WARNING.search(line)


def refused_timing_cache(lines: Iterable[str]) -> bool:
    """Whether a build that went well has said that it began without the timing cache it was given."""
    return any(REFUSED.search(line) for line in lines)


def explain(error: CommandError, context: StepContext, argv: Sequence[str], release: str) -> CommandError:
    """The same failure, with what to do about it in a build."""
    problem, remedy = error.problem, REMEDIES.get(FailureCause(error.cause), error.remedy)
    if error.cause == FailureCause.UNKNOWN_FLAG:
        unknown = _unknown_flags(context, argv)
        if unknown:
            problem = f"trtllm-build of this toolchain has no {', '.join(unknown)}, which release {release} is to have"
            remedy = (
                f"make sure that the toolchain is {release} (enginery toolchain check), or take the release that it is;"
                " leave out what was given in build.extra_args"
            )
    return CommandError(problem, subject=error.subject, remedy=remedy, cause=error.cause, last_lines=error.last_lines)


def _unknown_flags(context: StepContext, argv: Sequence[str]) -> list[str]:
    """The command's flags that its own help does not have; none where it gives no help."""
    lines: list[str] = []
    aside = dataclasses.replace(context, log=lines.append, completed=[])
    try:
        aside.run([argv[0], "--help"])
    except CommandError:
        return []
    known = {name for line in lines[1:] for name in LONG_FLAG.findall(line)}
    return sorted({name for word in argv for name in LONG_FLAG.findall(word.partition("=")[0])} - known)

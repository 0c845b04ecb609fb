"""Which class of TensorRT-LLM runs a model in a release, and how it is started on several GPUs."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from packaging.version import Version
from pydantic import JsonValue

from enginery.core.errors import UsageError
from enginery.spec import BuildOptions

Kind = Literal["tensorrt", "pytorch"]
"""What is run: an engine, or a checkpoint with the PyTorch backend."""


class Runtime(NamedTuple):
    """A class that runs a model.

    Attributes:
        since: the first release it is used for.
        name: the class, as module:class.
        source: where these facts were read.
        by_rank: whether `mpirun` starts one process for each rank; otherwise one process starts all its ranks.
        arguments: arguments that the class always gets, besides the model.
        with_logits: whether it gives the logits of prompts for a checkpoint. An engine gives them in every release, if
            it was built with `gather_context_logits`.
    """

    since: str
    name: str
    source: str
    by_rank: bool = False
    arguments: Mapping[str, JsonValue] = MappingProxyType({})
    with_logits: bool = False


RUNTIMES: Mapping[Kind, tuple[Runtime, ...]] = {
    "tensorrt": (
        Runtime(
            "0.8.0",
            "tensorrt_llm.runtime:ModelRunnerCpp",
            "examples/run.py and tensorrt_llm/runtime/model_runner_cpp.py of v0.8.0 to v0.15.0; mpirun in"
            " examples/llama/README.md",
            by_rank=True,
        ),
        Runtime(
            "0.16.0",
            "tensorrt_llm:LLM",
            "tensorrt_llm/llmapi/llm.py and llm_utils.py of v0.16.0 (an engine directory gives its own parallel"
            " sizes); docs/source/llm-api/index.md: no mpirun on a single node",
        ),
        Runtime(
            "1.0.0",
            "tensorrt_llm._tensorrt_engine:LLM",
            "docs legacy/tensorrt_quickstart; tensorrt_llm/_tensorrt_engine of 1.3.0rc3",
        ),
    ),
    "pytorch": (
        Runtime(
            "0.17.0",
            "tensorrt_llm._torch:LLM",
            "programs of that time import LLM from tensorrt_llm._torch; not read in the release itself",
        ),
        Runtime(
            "0.19.0",
            "tensorrt_llm:LLM",
            "release notes of 0.19 and 1.0: the backend is named until it becomes the default",
            arguments={"backend": "pytorch"},
        ),
        Runtime(
            "1.0.0",
            "tensorrt_llm:LLM",
            "examples/pytorch/quickstart.py; tensorrt_llm/llmapi/llm.py, sampling_params.py (return_context_logits) and"
            " _torch/pyexecutor/llm_request.py of 1.3.0rc3",
            with_logits=True,
        ),
    ),
}
"""The classes for each kind of model, oldest first."""


def runtime_for(kind: Kind, release: str) -> Runtime:
    """The class that runs a model in a release. A preview counts as its release: `1.0.0rc1` is treated as `1.0.0`.

    Raises:
        UsageError: when the release has no class for this kind of model.
    """
    version = Version(Version(release).base_version)
    usable = [runtime for runtime in RUNTIMES[kind] if version >= Version(runtime.since)]
    if not usable:
        remedy = f"take a release from {RUNTIMES[kind][0].since} on"
        raise UsageError(f"TensorRT-LLM {release} cannot run a model this way", subject=kind, remedy=remedy)
    return usable[-1]


def logits_notes(kind: Kind, release: str, options: BuildOptions) -> list[str]:
    """What a runtime that gives no logits of prompts means for the comparison with the reference."""
    how = "set build.gather_context_logits to compare all of them"
    if kind == "pytorch":
        how = "releases from 1.0.0 on compare all of them"
    gathered = options.gather_context_logits or options.gather_all_token_logits
    if runtime_for(kind, release).with_logits if kind == "pytorch" else gathered:
        return []
    return [f"only the likeliest token is compared with the reference, at some places of its texts: {how}"]


def mpirun(world_size: int) -> tuple[str, ...]:
    """The first words of a command that runs once for each rank.

    The release's own examples use the same two options. Without the first Open MPI refuses to run as root, the user in
    a container. Without the second it starts no more ranks than the machine has cores.
    """
    return ("mpirun", "-n", str(world_size), "--allow-run-as-root", "--oversubscribe")


def launch_words(world_size: int, environment: Mapping[str, str], *, by_rank: bool) -> tuple[str, ...]:
    """The first words of a command that runs a model on several GPUs; empty if the command needs none.

    A process that starts its ranks itself needs no `mpirun`, except on a node that Slurm manages. There NVIDIA's
    documentation asks for `mpirun` with one rank, for any number of GPUs.
    """
    if world_size == 1:
        return ()
    if by_rank:
        return mpirun(world_size)
    return mpirun(1) if "SLURM_JOB_ID" in environment else ()

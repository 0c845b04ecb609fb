"""Which of TensorRT-LLM's runtimes is asked for answers in which release, and how it is started."""

from typing import Literal, NamedTuple

from packaging.version import Version
from pydantic import JsonValue

from enginery.errors import UsageError

Kind = Literal["tensorrt", "pytorch"]


class Runtime(NamedTuple):
    """A way to run a model.

    Attributes:
        since: the first release it is used for.
        name: the class, as module:class.
        by_rank: whether `mpirun` starts one process for each rank; else one process starts the ranks it needs.
        arguments: what it is always given besides the model.
        source: where this was read.
    """

    since: str
    name: str
    by_rank: bool
    arguments: dict[str, JsonValue]
    source: str


RUNTIMES: dict[Kind, tuple[Runtime, ...]] = {
    "tensorrt": (
        Runtime(
            "0.8.0",
            "tensorrt_llm.runtime:ModelRunnerCpp",
            by_rank=True,
            arguments={},
            source="examples/run.py and tensorrt_llm/runtime/model_runner_cpp.py of v0.8.0 to v0.15.0; mpirun in"
            " examples/llama/README.md",
        ),
        Runtime(
            "0.16.0",
            "tensorrt_llm:LLM",
            by_rank=False,
            arguments={},
            source="tensorrt_llm/llmapi/llm.py and llm_utils.py of v0.16.0 (an engine directory gives its own parallel"
            " sizes); docs/source/llm-api/index.md: no mpirun on a single node",
        ),
        Runtime(
            "1.0.0",
            "tensorrt_llm._tensorrt_engine:LLM",
            by_rank=False,
            arguments={},
            source="docs legacy/tensorrt_quickstart; tensorrt_llm/_tensorrt_engine of 1.3.0rc3",
        ),
    ),
    "pytorch": (
        Runtime(
            "0.17.0",
            "tensorrt_llm._torch:LLM",
            by_rank=False,
            arguments={},
            source="programs of that time import LLM from tensorrt_llm._torch; not read in the release itself",
        ),
        Runtime(
            "0.19.0",
            "tensorrt_llm:LLM",
            by_rank=False,
            arguments={"backend": "pytorch"},
            source="release notes of 0.19 and 1.0: the backend is named until it becomes the default",
        ),
        Runtime(
            "1.0.0",
            "tensorrt_llm:LLM",
            by_rank=False,
            arguments={},
            source="examples/pytorch/quickstart.py; tensorrt_llm/llmapi/llm.py of 1.3.0rc3",
        ),
    ),
}
"""By what is to be run, an engine or a checkpoint; oldest first."""


def runtime_for(kind: Kind, release: str) -> Runtime:
    """The runtime of a release.

    Raises:
        UsageError: when the release has none for this.
    """
    fitting = [one for one in RUNTIMES[kind] if _since(release) >= Version(one.since)]
    if not fitting:
        first = RUNTIMES[kind][0].since
        remedy = f"take a release from {first} on"
        raise UsageError(f"TensorRT-LLM {release} cannot run a model this way", subject=kind, remedy=remedy)
    return fitting[-1]


def _since(release: str) -> Version:
    """Previews count as the release they lead to: they were taken from the branch that became it."""
    return Version(Version(release).base_version)


def mpirun(world_size: int) -> tuple[str, ...]:
    """What starts a command once for each rank.

    As in the release's own examples: Open MPI refuses to run as root, which one is in a container, and counts a
    machine's cores as slots, of which there may be fewer than GPUs.
    """
    return ("mpirun", "-n", str(world_size), "--allow-run-as-root", "--oversubscribe")

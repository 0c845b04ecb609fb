"""How to start a Triton server for a model repository: the command, the container image, and a note with both.

For engines of backend `tensorrt`, the command is that of NVIDIA's launcher script (`launch_triton_server.py`) in the
same release. `mpirun` starts one process of Triton for each rank. Only rank 0 serves; the others only load the engine.
Unlike NVIDIA's, a server with one rank is in explicit model-control mode, so that builds can be rolled out to it.

For the LLM API, one process of Triton starts a worker for each GPU itself. The measurements of TensorRT-LLM's autotuner
can be kept in a file, so that the server does not measure again at each start.
"""

import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from packaging.version import Version

from enginery.releases import containers, version

TRITON = "/opt/tritonserver/bin/tritonserver"
PORTS = ("--grpc-port=8001", "--http-port=8000", "--metrics-port=8002")
EXPLICIT = "--model-control-mode=explicit"
ORCHESTRATOR_SINCE = "0.9.0"
"""From this release on, a server can start the ranks itself, so it can load engines of several GPUs while it runs."""
NO_IMAGE = "IMAGE"
LLMAPI_MOUNT = "/models"
"""Any other path would work too: the repository of the LLM API contains no absolute path."""

AUTOTUNER_CACHE_VARIABLE = "TLLM_AUTOTUNER_CACHE_PATH"
"""The environment variable with the path of the file. Each rank may append its number to the file's name."""
AUTOTUNER_CACHE_SINCE = "1.2.0"
"""The first release that reads and writes the file, by the description of pull request 7738 of NVIDIA/TensorRT-LLM,
which was merged for 1.2.0. The code of the release was not checked."""
AUTOTUNER_CACHE = "/autotuner"
"""The directory of the file in the container."""

RELATIVE_PATHS = (
    "The repository may lie anywhere, also in S3: its paths are relative. `LLM_CONFIG_PATH` names another\n"
    "`model.yaml`. Loading takes a while: CUDA graphs are captured, and the model warms up before it is ready."
)


@dataclass(frozen=True)
class Launch:
    """How to start a server.

    Attributes:
        world_size: the number of GPUs, and of processes, that the engine needs.
        command: the shell command to run in the container.
        image: Triton's image with the release inside, without the registry's host; empty if none is known.
        shared_memory: the size of shared memory for Triton's Python models, in Docker's notation, such as `1g`.
        mount: the path of the model repository in the container.
    """

    world_size: int
    command: str
    image: str
    shared_memory: str
    mount: str

    @property
    def docker(self) -> str:
        """The command that starts the container; `DIRECTORY` stands for the model repository's path on the host."""
        limits = f"--gpus all --network host --shm-size={self.shared_memory} --ulimit memlock=-1"
        return f"docker run --rm {limits} -v DIRECTORY:{self.mount} {self.image or NO_IMAGE} {self.command}"

    def facts(self) -> dict[str, Any]:
        """The attributes, for the record of the step."""
        return asdict(self)


def launch_of_engine(release: str, world_size: int, mount: str) -> Launch:
    """How to start a server with this release, for an engine with this number of ranks.

    Raises:
        UsageError: when the release is not a version, or too old.
    """
    argv = ["mpirun", "--allow-run-as-root"]
    for rank in range(world_size):
        argv += ["-n", "1", *_process(mount, rank, alone=world_size == 1), ":"]
    return _launch(release, world_size, argv[:-1], mount)


def launch_of_llmapi(release: str, world_size: int) -> Launch:
    """How to start a server with this release, for a model of the LLM API on this number of GPUs.

    Raises:
        UsageError: when the release is not a version, or too old.
    """
    argv = [TRITON, f"--model-repository={LLMAPI_MOUNT}", EXPLICIT, "--load-model=*", *PORTS]
    return _launch(release, world_size, argv, LLMAPI_MOUNT)


def note_of_engine(launch: Launch, release: str, model: str) -> str:
    """A page for people who start the server of an engine."""
    page = _page(launch, model, release, "In the container:", llmapi=False)
    return "\n".join([*page, *_engine_path(launch, release), ""])


def note_of_llmapi(launch: Launch, release: str, model: str, *, autotunes: bool = True) -> str:
    """A page for people who start the server of a model of the LLM API.

    `autotunes` says whether the autotuner measures kernels when the model is loaded.
    """
    how = "In the container, not under `mpirun`: the model starts its workers itself."
    kept = _measurements(release, model) if autotunes and keeps_measurements(release) else ()
    return "\n".join([*_page(launch, model, release, how, llmapi=True), RELATIVE_PATHS, *kept, ""])


def keeps_measurements(release: str) -> bool:
    """Whether a release can keep its autotuner's measurements in a file."""
    return Version(release) >= Version(AUTOTUNER_CACHE_SINCE)


def _launch(release: str, world_size: int, argv: list[str], mount: str) -> Launch:
    found = containers(release).value
    return Launch(
        world_size=world_size,
        command=shlex.join(argv),
        image=found[0].image if found else "",
        shared_memory=f"{world_size}g",
        mount=mount,
    )


def _process(mount: str, rank: int, *, alone: bool) -> Iterator[str]:
    yield from (TRITON, f"--model-repository={mount}")
    if alone:
        yield from (EXPLICIT, "--load-model=*")
    elif rank:
        yield from (EXPLICIT, "--load-model=tensorrt_llm")
    yield from (
        *PORTS,
        "--disable-auto-complete-config",
        f"--backend-config=python,shm-region-prefix-name=prefix{rank}_",
    )


def _page(launch: Launch, model: str, release: str, how: str, *, llmapi: bool) -> Iterator[str]:
    remedy = "build one, and put it" if llmapi else "build the backend, and put its image"
    unknown = f"none is known with {release} inside: {remedy} in place of `{NO_IMAGE}`"
    image = f"`{launch.image}` of NVIDIA's registry" if launch.image else unknown
    yield f"# Launching {model}\n"
    yield "| | |\n|---|---|"
    yield f"| release | TensorRT-LLM {release}{', LLM API' if llmapi else ''} |"
    yield f"| GPUs (world size) | {launch.world_size} |"
    yield f"| container | {image} |"
    if not llmapi:
        yield f"| model repository in the container | `{launch.mount}` |"
    yield f"| shared memory | {launch.shared_memory} |\n"
    yield f"{how}\n"
    yield f"```sh\n{launch.command}\n```\n"
    yield "With Docker, with the directory that holds this note in place of `DIRECTORY`:\n"
    yield f"```sh\n{launch.docker}\n```\n"


def _engine_path(launch: Launch, release: str) -> Iterator[str]:
    yield "The engine's path in `config.pbtxt` is absolute, so for the server the repository must lie at"
    yield f"`{launch.mount}` (`serving.mount` in the spec). The Python models need `numpy` and `tokenizers`, which the"
    yield "container has."
    if launch.world_size == 1:
        return
    yield "\nStarted like this, the ranks load their engine once: to serve another build, restart them."
    if version(release) >= version(ORCHESTRATOR_SINCE):
        yield "For `enginery rollout`, start one process instead, which starts the ranks itself (orchestrator mode):\n"
        alone = shlex.join(["mpirun", "--allow-run-as-root", "-n", "1", *_process(launch.mount, 0, alone=True)])
        yield f"```sh\nTRTLLM_ORCHESTRATOR=1 {alone}\n```"


def _measurements(release: str, model: str) -> Iterator[str]:
    """How to keep the autotuner's file. Each release and model has a file of its own: the file does not name them."""
    file = shlex.quote(f"{AUTOTUNER_CACHE_VARIABLE}={AUTOTUNER_CACHE}/{model}-{release}.json")
    yield "\nWhat the autotuner measures at a start it need not measure at the next: give `docker run` a directory of"
    yield "this machine in place of `CACHE`, another one for each kind of GPU:\n"
    yield f"```sh\n-v CACHE:{AUTOTUNER_CACHE} -e {file}\n```"

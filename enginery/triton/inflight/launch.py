"""How to start a server for a repository: the command, the image, and a note for people with both.

The command is that of the launcher script of NVIDIA's backend (`launch_triton_server.py`), release for release: one
process of Triton for each rank, put together by `mpirun`; only rank 0 serves, the others load the engine alone. What
is added: a server with one rank is in explicit model-control mode, so that builds can be rolled out to it later.
"""

import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from enginery.releases.known import version
from enginery.releases.pins import containers

TRITON = "/opt/tritonserver/bin/tritonserver"
PORTS = ("--grpc-port=8001", "--http-port=8000", "--metrics-port=8002")
EXPLICIT = "--model-control-mode=explicit"
ORCHESTRATOR_SINCE = "0.9.0"
"""From then on one server can start the ranks itself, and so load engines of several GPUs while it runs."""
NO_IMAGE = "IMAGE"


@dataclass(frozen=True)
class Launch:
    """How to start a server.

    Attributes:
        world_size: GPUs, and processes, that the engine needs.
        command: what to run in the container, as a shell takes it.
        image: Triton's container with the release inside, without the registry's host; empty where none is known.
        shared_memory: for Triton's Python models, as Docker takes it.
        mount: where the model repository must lie in the container.
    """

    world_size: int
    command: str
    image: str
    shared_memory: str
    mount: str

    @property
    def docker(self) -> str:
        """The command that starts the container around it; `DIRECTORY` stands for the model repository's place."""
        limits = f"--gpus all --network host --shm-size={self.shared_memory} --ulimit memlock=-1"
        return f"docker run --rm {limits} -v DIRECTORY:{self.mount} {self.image or NO_IMAGE} {self.command}"

    def facts(self) -> dict[str, Any]:
        """For the step's record."""
        return asdict(self)


def how_to_launch(release: str, world_size: int, mount: str) -> Launch:
    """How to start a server of a release for an engine of so many ranks.

    Raises:
        UsageError: when the release is not a version, or too old.
    """
    found = containers(release).value
    argv = ["mpirun", "--allow-run-as-root"]
    for rank in range(world_size):
        argv += ["-n", "1", *_process(mount, rank, alone=world_size == 1), ":"]
    return Launch(
        world_size=world_size,
        command=shlex.join(argv[:-1]),
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


def launch_note(launch: Launch, release: str, model: str) -> str:
    """A page for whoever starts the server."""
    return "\n".join([*_page(launch, release, model), ""])


def _page(launch: Launch, release: str, model: str) -> Iterator[str]:
    yield f"# Launching {model}\n"
    yield "| | |\n|---|---|"
    yield f"| release | TensorRT-LLM {release} |"
    yield f"| GPUs (world size) | {launch.world_size} |"
    yield f"| container | {_image(launch, release)} |"
    yield f"| model repository in the container | `{launch.mount}` |"
    yield f"| shared memory | {launch.shared_memory} |\n"
    yield "In the container:\n"
    yield f"```sh\n{launch.command}\n```\n"
    yield "With Docker, with the directory that holds this note in place of `DIRECTORY`:\n"
    yield f"```sh\n{launch.docker}\n```\n"
    yield "The engine's path in `config.pbtxt` is absolute, so for the server the repository must lie at"
    yield f"`{launch.mount}` (`serving.mount` in the spec). The Python models need `numpy` and `tokenizers`, which the"
    yield "container has."
    yield from _rollouts(launch, release)


def _image(launch: Launch, release: str) -> str:
    if launch.image:
        return f"`{launch.image}` of NVIDIA's registry"
    return f"none is known with {release} inside: build the backend, and put its image in place of `{NO_IMAGE}`"


def _rollouts(launch: Launch, release: str) -> Iterator[str]:
    if launch.world_size == 1:
        return
    yield "\nStarted like this, the ranks load their engine once: to serve another build, restart them."
    if version(release) >= version(ORCHESTRATOR_SINCE):
        yield "For `enginery rollout`, start one process instead, which starts the ranks itself (orchestrator mode):\n"
        alone = shlex.join(["mpirun", "--allow-run-as-root", "-n", "1", *_process(launch.mount, 0, alone=True)])
        yield f"```sh\nTRTLLM_ORCHESTRATOR=1 {alone}\n```"

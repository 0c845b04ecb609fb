"""How to start a server for the LLM API: one process, which starts a worker for each GPU itself."""

import shlex
from collections.abc import Iterator

from enginery.releases.pins import containers
from enginery.triton.inflight.launch import EXPLICIT, NO_IMAGE, PORTS, TRITON, Launch
from enginery.triton.llmapi.autotuner import docker_options, keeps_measurements

MOUNT = "/models"
"""Anywhere would do: nothing in the repository is absolute."""


def how_to_launch(release: str, world_size: int) -> Launch:
    """How to start a server of a release for a model on so many GPUs.

    Raises:
        UsageError: when the release is not a version, or too old.
    """
    found = containers(release).value
    return Launch(
        world_size=world_size,
        command=shlex.join([TRITON, f"--model-repository={MOUNT}", EXPLICIT, "--load-model=*", *PORTS]),
        image=found[0].image if found else "",
        shared_memory=f"{world_size}g",
        mount=MOUNT,
    )


def launch_note(launch: Launch, release: str, model: str, *, autotunes: bool = True) -> str:
    """A page for whoever starts the server.

    Args:
        launch: how it is started.
        release: of TensorRT-LLM.
        model: the model's name.
        autotunes: whether the autotuner measures kernels when the model is loaded.
    """
    kept = _measurements(release, model) if autotunes and keeps_measurements(release) else ()
    return "\n".join([*_page(launch, release, model), *kept, ""])


def _page(launch: Launch, release: str, model: str) -> Iterator[str]:
    image = f"`{launch.image}` of NVIDIA's registry" if launch.image else _no_image(release)
    yield f"# Launching {model}\n"
    yield "| | |\n|---|---|"
    yield f"| release | TensorRT-LLM {release}, LLM API |"
    yield f"| GPUs (world size) | {launch.world_size} |"
    yield f"| container | {image} |"
    yield f"| shared memory | {launch.shared_memory} |\n"
    yield "In the container, not under `mpirun`: the model starts its workers itself.\n"
    yield f"```sh\n{launch.command}\n```\n"
    yield "With Docker, with the directory that holds this note in place of `DIRECTORY`:\n"
    yield f"```sh\n{launch.docker}\n```\n"
    yield "The repository may lie anywhere, also in S3: its paths are relative. `LLM_CONFIG_PATH` names another"
    yield "`model.yaml`. Loading takes a while: CUDA graphs are captured, and the model warms up before it is ready."


def _measurements(release: str, model: str) -> Iterator[str]:
    yield "\nWhat the autotuner measures at a start it need not measure at the next: give `docker run` a directory of"
    yield "this machine in place of `CACHE`, another one for each kind of GPU:\n"
    yield f"```sh\n{docker_options(release, model)}\n```"


def _no_image(release: str) -> str:
    return f"none is known with {release} inside: build one, and put it in place of `{NO_IMAGE}`"

# ruff: noqa: INP001  a script, not a module
"""Writes `docker-bake.json`: the worker images, for the CPU and for each release of TensorRT-LLM.

A release's image is the newest of Triton's containers with exactly this release, as in `enginery releases show`. Run
this script when the recorded facts have changed: `python infra/images/bake.py`.
"""

import json
from pathlib import Path
from typing import Any

from enginery.releases.facts import Container, containers, releases

BAKE = Path(__file__).with_name("docker-bake.json")
OLD_PYTHON = "3.10"
"""The Python in the images up to 0.15. Enginery needs a newer one, which their Ubuntu has as a package."""

Json = dict[str, Any]


def bake() -> Json:
    """The whole file, as `docker buildx bake` reads it."""
    images = {release: found[0] for release in releases() if (found := containers(release).value)}
    targets = {name_of(release): worker(release, image) for release, image in images.items()}
    return {
        "variable": {"REGISTRY": {"default": ""}, "TAG": {"default": "latest"}},
        "group": {"default": {"targets": ["worker-cpu"]}, "tensorrt-llm": {"targets": sorted(targets)}},
        "target": {"worker-cpu": _target("worker-cpu.Dockerfile", "worker-cpu"), **targets},
    }


def name_of(release: str) -> str:
    """The name of a release's target in the file. A dot in it would be a separator."""
    return f"worker-tensorrt-llm-{release.replace('.', '-')}"


def worker(release: str, container: Container) -> Json:
    """The image of a release's worker."""
    old = (container.python or OLD_PYTHON).startswith(OLD_PYTHON)
    python = {"PYTHON": "python3.11", "PYTHON_PACKAGES": "python3.11 python3.11-venv"} if old else {}
    arguments = {"REGISTRY": "${REGISTRY}", "IMAGE": container.image, **python}
    made = _target("worker-tensorrt-llm.Dockerfile", f"worker-tensorrt-llm:{release}")
    return {**made, "args": arguments}


def _target(dockerfile: str, tag: str) -> Json:
    name, _, release = tag.partition(":")
    tagged = f"enginery/{name}:{release}-${{TAG}}" if release else f"enginery/{name}:${{TAG}}"
    path = f"infra/images/{dockerfile}"
    return {"context": ".", "dockerfile": path, "tags": [tagged]}


if __name__ == "__main__":
    BAKE.write_text(json.dumps(bake(), indent=2) + "\n")

# ruff: noqa: INP001  a script, not a module
"""Writes `job-templates/*.json`: the base job template of each Kubernetes work pool, one for each kind of node.

A template is Prefect's own for Kubernetes, and adds what an engine build needs: a node with exactly the right GPU (by
the label from NVIDIA's GPU feature discovery), the GPU itself, a volume for the store and the toolchains, shared
memory, and a user that is not root. Run this script when GPUs, images or Prefect have changed:
`python infra/kubernetes/job_templates.py`.
"""

import json
from pathlib import Path
from typing import Any

from prefect_kubernetes.worker import KubernetesWorker

from enginery.spec.gpus import CPU, Gpu, find

TEMPLATES = Path(__file__).with_name("job-templates")
GPUS = ("cpu", "L4", "L40S", "A100-SXM4-80GB", "H100-SXM5-80GB", "H200-SXM5-141GB", "B200")
USER = 10001
"""The user of our images."""

Json = dict[str, Any]

HARDENED: Json = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
MOUNTS: list[Json] = [
    {"name": "enginery", "mountPath": "/var/lib/enginery"},
    {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108  the container's own
    {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108  the container's own
]
VOLUMES: list[Json] = [
    {"name": "enginery", "persistentVolumeClaim": {"claimName": "{{ cache_claim }}"}},
    {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "{{ shared_memory }}"}},
    {"name": "scratch", "emptyDir": {}},
]


def job_template(gpu: Gpu) -> Json:
    """The base job template of the pool whose nodes have this GPU; `cpu` for nodes without one."""
    template: Json = KubernetesWorker.get_default_base_job_template()
    job = template["job_configuration"]["job_manifest"]["spec"]
    pod = job["template"]["spec"]
    # Prefect's own template has these fields in the pod, where they have no effect.
    job |= {name: pod.pop(name) for name in ("completions", "parallelism")}
    _harden(pod)
    pod["volumes"] = VOLUMES
    properties = template["variables"]["properties"]
    properties |= _variables(gpu)
    for name, value in _defaults(gpu).items():
        properties[name]["default"] = value
    if gpu != CPU:
        _give_gpus(pod, gpu)
    return template


def _harden(pod: Json) -> None:
    container = pod["containers"][0]
    container |= {"securityContext": HARDENED, "volumeMounts": MOUNTS}
    container["envFrom"] = [{"secretRef": {"name": "{{ secret }}", "optional": True}}]
    pod["securityContext"] = {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    pod["automountServiceAccountToken"] = False


def _give_gpus(pod: Json, gpu: Gpu) -> None:
    """Kubernetes gives GPUs by the limit of a container. No request is set: it would have to be equal to the limit."""
    pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = "{{ gpus }}"
    pod["nodeSelector"] = {"nvidia.com/gpu.product": gpu.label}
    pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def _variables(gpu: Gpu) -> Json:
    own: Json = {
        "cache_claim": _text("Model cache", "The volume claim for store, toolchains and weights.", "enginery-cache"),
        "secret": _text("Secret", "Its values become environment variables: HF_TOKEN, AWS_…", "enginery"),
        "shared_memory": _text("Shared memory", "For the ranks of an engine to talk to each other.", "8Gi"),
    }
    if gpu != CPU:
        help_text = "GPUs of the node that a run gets: the largest world size that is built here."
        own["gpus"] = {"title": "GPUs", "description": help_text, "type": "integer", "default": 1, "minimum": 1}
    return own


def _text(title: str, description: str, default: str) -> Json:
    return {"title": title, "description": description, "type": "string", "default": default}


def _defaults(gpu: Gpu) -> Json:
    """Memory to convert a model of 8 billion weights. For larger models, set the pool's variables to more."""
    with_gpu = {"cpu_request": "8", "memory_request": "64Gi", "memory_limit": "128Gi"}
    without = {"cpu_request": "4", "memory_request": "32Gi", "memory_limit": "64Gi"}
    return {
        "namespace": "enginery",
        "service_account_name": "enginery-publisher",
        "image": "enginery/worker-cpu:latest" if gpu == CPU else "enginery/worker-tensorrt-llm:1.2.1-latest",
        "finished_job_ttl": 3600,
        "pod_watch_timeout_seconds": 1800,
        **(without if gpu == CPU else with_gpu),
    }


def write(directory: Path) -> None:
    """Write every template."""
    for name in GPUS:
        gpu = find(name)
        text = json.dumps(job_template(gpu), indent=2) + "\n"
        (directory / f"{gpu.name.lower()}.json").write_text(text)


if __name__ == "__main__":
    write(TEMPLATES)

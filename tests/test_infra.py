"""Tests of infra/ that need no cluster, image registry or docker daemon."""

import json
import runpy
import shutil
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prefect.utilities.templating import apply_values

from enginery.pipeline.fleet import Pool, read_pools
from enginery.releases.facts import containers
from enginery.spec.gpus import find

INFRA = Path(__file__).parent.parent / "infra"
DOCKERFILES = sorted((INFRA / "images").glob("*.Dockerfile"))
JOB_TEMPLATES = sorted((INFRA / "kubernetes" / "job-templates").glob("*.json"))
BAKE = json.loads((INFRA / "images" / "docker-bake.json").read_text())
COMPOSE = yaml.safe_load((INFRA / "compose.yaml").read_text())
KUBERNETES = "1.31"


def script(path: str) -> dict[str, Any]:
    return runpy.run_path(str(INFRA / path))


def tool(name: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name(name)), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def ids(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


@pytest.mark.parametrize("path", DOCKERFILES, ids=ids(DOCKERFILES))
def test_hadolint_finds_nothing_in_a_dockerfile(path: Path) -> None:
    checked = tool("hadolint", path)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=ids(DOCKERFILES))
def test_an_image_does_not_run_as_root(path: Path) -> None:
    users = [line.split()[1] for line in path.read_text().splitlines() if line.startswith("USER ")]
    assert users == ["10001"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=ids(DOCKERFILES))
def test_the_base_of_an_image_is_pinned_by_a_tag(path: Path) -> None:
    bases = [line.split()[1] for line in path.read_text().splitlines() if line.startswith("FROM ")]
    for base in bases:
        assert base.endswith("${IMAGE}") or base.rpartition(":")[2].removesuffix("-py3")[0].isdecimal(), base


@pytest.mark.parametrize("path", DOCKERFILES, ids=ids(DOCKERFILES))
def test_an_image_copies_only_what_is_sent_to_the_builder(path: Path) -> None:
    """`.dockerignore` excludes everything that it does not name."""
    kept = (INFRA.parent / ".dockerignore").read_text().splitlines()
    for line in path.read_text().splitlines():
        words = line.split()
        if line.startswith("COPY ") and not words[1].startswith("--"):
            for source in words[1:-1]:
                top = source.split("/")[0]
                assert (INFRA.parent / source).exists(), source
                assert {f"!{top}", f"!{top}/"} & set(kept), source


def test_there_is_a_worker_image_for_each_release_whose_container_is_known() -> None:
    assert script("images/bake.py")["bake"]() == BAKE, "run infra/images/bake.py"


def test_a_release_is_built_on_the_newest_container_with_exactly_that_release() -> None:
    worker = BAKE["target"]["worker-tensorrt-llm-1-2-1"]
    assert worker["args"]["IMAGE"] == containers("1.2.1").value[0].image
    assert worker["tags"] == ["enginery/worker-tensorrt-llm:1.2.1-${TAG}"]


def test_images_whose_python_is_too_old_for_enginery_get_another_beside_it() -> None:
    targets = BAKE["target"]
    assert targets["worker-tensorrt-llm-0-15-0"]["args"]["PYTHON"] == "python3.11"
    assert "PYTHON" not in targets["worker-tensorrt-llm-0-16-0"]["args"]


def test_the_compose_file_follows_the_compose_specification() -> None:
    checked = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", INFRA / "compose.yaml")
    assert checked.returncode == 0, checked.stdout


@pytest.mark.skipif(
    subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode != 0
    if shutil.which("docker")
    else True,
    reason="there is no `docker compose` here",
)
def test_docker_compose_accepts_the_compose_file() -> None:
    command = ["docker", "compose", "-f", str(INFRA / "compose.yaml"), "config", "--quiet"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service_of_the_stack_is_pinned_or_built_here(name: str) -> None:
    service = COMPOSE["services"][name]
    image = service["image"]
    if "build" in service:
        assert (INFRA / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert image.startswith("enginery/")
    else:
        assert image.partition(":")[2] not in {"", "latest"}


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_the_stack_listens_on_loopback_only(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in COMPOSE["services"][name].get("ports", []))


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service_waits_for_services_that_there_are(name: str) -> None:
    needed = COMPOSE["services"][name].get("depends_on", {})
    for other, how in needed.items():
        condition = how["condition"]
        assert condition != "service_healthy" or "healthcheck" in COMPOSE["services"][other]
        assert condition != "service_completed_successfully" or COMPOSE["services"][other]["restart"] == "no"


def test_the_job_templates_are_those_of_this_prefect_and_of_the_gpus_that_we_know(tmp_path: Path) -> None:
    script("kubernetes/job_templates.py")["write"](tmp_path)
    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_text() for path in JOB_TEMPLATES}, "run infra/kubernetes/job_templates.py"


def job_of(path: Path, **values: Any) -> dict[str, Any]:
    """The job that a worker makes from a template with its defaults, filled in as by Prefect."""
    template = json.loads(path.read_text())
    variables = template["variables"]["properties"]
    defaults = {name: one["default"] for name, one in variables.items() if one.get("default") is not None}
    given = {"command": ["prefect", "flow-run", "execute"], "env": [], "labels": {}, "annotations": {}, "name": "run"}
    job: dict[str, Any] = apply_values(template["job_configuration"], given | defaults | values)["job_manifest"]
    return job


@pytest.mark.parametrize("path", JOB_TEMPLATES, ids=ids(JOB_TEMPLATES))
def test_the_job_of_a_pool_is_one_for_kubernetes(path: Path) -> None:
    kubernetes_validate.validate(job_of(path), KUBERNETES, strict=True)


@pytest.mark.parametrize("path", JOB_TEMPLATES, ids=ids(JOB_TEMPLATES))
def test_a_job_runs_on_the_nodes_of_its_gpu_and_not_as_root(path: Path) -> None:
    pod = job_of(path, gpus=2)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    gpu = find(path.stem)
    if gpu.name == "cpu":
        assert "nodeSelector" not in pod
        return
    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": gpu.label}
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 2
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_a_job_finds_the_model_cache_under_the_home_of_our_images() -> None:
    pod = job_of(JOB_TEMPLATES[0])["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    claims = {volume["name"]: volume.get("persistentVolumeClaim") for volume in pod["volumes"]}
    assert claims["enginery"] == {"claimName": "enginery-cache"}
    for dockerfile in DOCKERFILES:
        text = dockerfile.read_text()
        assert "worker" not in dockerfile.name or f"ENGINERY_HOME={mounts['enginery']}/" in text


BASE = list(yaml.safe_load_all((INFRA / "kubernetes" / "base.yaml").read_text()))


@pytest.mark.parametrize("resource", BASE, ids=[f"{one['kind']}-{one['metadata']['name']}" for one in BASE])
def test_what_is_applied_to_the_cluster_is_valid(resource: dict[str, Any]) -> None:
    kubernetes_validate.validate(resource, KUBERNETES, strict=True)


def test_the_jobs_use_an_account_and_a_claim_that_are_there() -> None:
    names = {(one["kind"], one["metadata"]["name"]) for one in BASE}
    pod = job_of(JOB_TEMPLATES[0])["spec"]["template"]["spec"]
    assert ("ServiceAccount", pod["serviceAccountName"]) in names
    assert ("PersistentVolumeClaim", "enginery-cache") in names


POOLS = [pool for pool in read_pools(INFRA / "pools.yaml").pools if pool.job_template]


@pytest.mark.parametrize("pool", POOLS, ids=[pool.work_pool for pool in POOLS])
def test_a_pool_of_the_cluster_has_the_job_template_of_its_gpu(pool: Pool) -> None:
    template = INFRA / str(pool.job_template)
    assert fnmatchcase(find(template.stem).name, pool.gpu)

"""Tests of docker's arguments for running a command in a container."""

from pathlib import Path
from typing import Any

import pytest

from enginery.core.errors import UsageError
from enginery.toolchains.container import ContainerAccess, docker_command, gpus_argument
from tests.support.toolchains.docker import option_values as values

IMAGE = "nvidia/tritonserver:26.07-trtllm-python-py3"
KEY = "0123456789abcdef" * 4


def box(**changes: Any) -> ContainerAccess:
    return ContainerAccess(image=IMAGE, name=KEY, home=Path("/home/caches"), user="1000:1001", **changes)


def words(**changes: Any) -> list[str]:
    return list(docker_command(box(**changes), "enginery-x", ("trtllm-build", "--output_dir", "/out")))


# The command line


def test_the_command_comes_last_and_unchanged() -> None:
    assert words()[-4:] == [IMAGE, "trtllm-build", "--output_dir", "/out"]


def test_a_container_is_named_and_removed_and_runs_as_the_user_of_this_machine() -> None:
    command = words()
    assert command[:2] == ["docker", "run"]
    assert {"--rm", "--init"} <= set(command)
    assert values(command, "--name") == ["enginery-x"]
    assert values(command, "--user") == ["1000:1001"]
    assert values(command, "--pull") == ["never"]


def test_it_has_the_memory_limits_that_nvidia_asks_for() -> None:
    assert values(words(), "--ulimit") == ["memlock=-1", "stack=67108864"]
    assert values(words(), "--ipc") == ["host"]


def test_it_reaches_the_network_only_when_it_may() -> None:
    assert values(words(), "--network") == ["none"]
    assert values(words(), "--hostname") == ["localhost"]
    assert values(words(network=True), "--network") == ["host"]


def test_proxies_are_passed_on_by_name_to_what_may_reach_the_network() -> None:
    assert {"HTTPS_PROXY", "HF_ENDPOINT"} <= set(values(words(network=True), "--env"))
    assert not {"HTTPS_PROXY", "HF_ENDPOINT"} & set(values(words(), "--env"))


def test_directories_are_mounted_where_they_are_the_outer_ones_first() -> None:
    command = words(read_only=(Path("/steps/inputs/weights"),), read_write=(Path("/steps"),))
    assert values(command, "--volume") == [
        "/home/caches:/home/caches:rw",
        "/steps:/steps:rw",
        "/steps/inputs/weights:/steps/inputs/weights:ro",
    ]


def test_a_path_that_docker_cannot_mount_is_refused() -> None:
    with pytest.raises(UsageError, match="colon"):
        words(read_only=(Path("/steps/a:b"),))


def test_settings_are_written_out_and_secrets_only_named() -> None:
    given = values(words(environment={"TQDM_DISABLE": "1", "MY_API_KEY": "hidden-value"}), "--env")
    assert "TQDM_DISABLE=1" in given
    assert "MY_API_KEY" in given
    assert not any("hidden-value" in word for word in given)


def test_the_hugging_face_token_is_a_file_and_never_a_variable() -> None:
    command = words(environment={"HF_TOKEN": "hf_secret"}, token_file=Path("/run/token"), network=True)
    assert "/run/token:/run/token:ro" in values(command, "--volume")
    assert "HF_TOKEN_PATH=/run/token" in values(command, "--env")
    assert not any(word.startswith("HF_TOKEN=") or word == "HF_TOKEN" for word in command)


def test_home_is_the_directory_of_caches_and_the_user_has_a_name() -> None:
    given = values(words(environment={"HOME": "/home/other", "PATH": "/bin"}), "--env")
    assert {"HOME=/home/caches", "USER=enginery", "LOGNAME=enginery"} <= set(given)
    assert "HOME=/home/other" not in given
    assert "PATH=/bin" not in given


# GPUs


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, "all"),
        ("all", "all"),
        ("2", '"device=2"'),
        ("0, 1", '"device=0,1"'),
        ("GPU-8932f937", '"device=GPU-8932f937"'),
        ("", ""),
        ("-1", ""),
    ],
)
def test_the_gpus_are_those_that_cuda_visible_devices_leaves(
    tmp_path: Path, visible: str | None, expected: str
) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\n")
    smi.chmod(0o755)
    environment = {"PATH": str(tmp_path)} | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    assert gpus_argument(environment) == expected


def test_a_machine_without_a_driver_offers_no_gpus(tmp_path: Path) -> None:
    assert gpus_argument({"PATH": str(tmp_path)}) == ""


def test_the_devices_are_not_named_again_inside_where_they_have_other_numbers() -> None:
    command = words(gpus='"device=3"', environment={"CUDA_VISIBLE_DEVICES": "3"})
    assert values(command, "--gpus") == ['"device=3"']
    assert not any("CUDA_VISIBLE_DEVICES" in word for word in command)

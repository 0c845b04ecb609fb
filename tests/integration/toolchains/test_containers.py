# ruff: noqa: F811  fixtures are imported
"""Tests of toolchains that are images, without Docker: a stand-in in tests/support accepts docker's flags and runs the
command on this machine. So they test the arguments for docker and how its answers are used."""

import sys
from pathlib import Path

import pytest

from enginery import toolchains
from enginery.core.errors import ToolchainError
from enginery.toolchains.container import image_reference
from enginery.toolchains.identity import ToolchainIdentity
from tests.support.toolchains.docker import FakeDocker, fake, release  # noqa: F401
from tests.support.trtllm import make_release

NAME = "tensorrt-llm-1.2.1"
IMAGE = "nvidia/tritonserver:26.07-trtllm-python-py3"
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
KEY = "0123456789abcdef" * 4


def local_python(identity: ToolchainIdentity) -> ToolchainIdentity:
    """The identity with the version of this interpreter, which the stand-in runs."""
    return identity.model_copy(update={"python": MINOR})


# Identity and image


def test_an_identity_names_the_image_of_the_release_and_nothing_of_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("ENGINERY_CONTAINER_REGISTRY", "mirror.example.com")
    identity = toolchains.identify(NAME, "container")
    assert identity == ToolchainIdentity(
        name=NAME, kind="container", pins=("tensorrt-llm==1.2.1",), python="3.12", image=IMAGE
    )


def test_another_image_is_another_toolchain() -> None:
    known = toolchains.identify(NAME, "container")
    own = toolchains.identify(NAME, "container", image=f"{IMAGE}@sha256:{'0' * 64}")
    assert own.digest() != known.digest()
    assert own.image.endswith("0" * 64)


def test_a_pin_file_may_name_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{NAME}.txt").write_text("# image: team/trtllm:7\n# python: ==3.12.*\ntensorrt-llm==1.2.1\n")
    monkeypatch.setenv("ENGINERY_TOOLCHAINS", str(tmp_path))
    assert toolchains.identify(NAME, "container").image == "team/trtllm:7"


def test_a_pin_file_that_leaves_python_open_leaves_it_to_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake: FakeDocker
) -> None:
    """The Pythons of this machine must not be used, and must not change the keys."""
    (tmp_path / f"{NAME}.txt").write_text("# image: team/trtllm:7\n# python: >=3.10\ntensorrt-llm==1.2.1\n")
    monkeypatch.setenv("ENGINERY_TOOLCHAINS", str(tmp_path))
    fake.use_commands_of(make_release(tmp_path / "release", "1.2.1").bin)
    fake.add_image("team/trtllm:7")
    wanted = toolchains.identify(NAME, "container")
    assert wanted.python == ""
    assert toolchains.known_facts(toolchains.ensure(wanted))["tensorrt-llm"] == "1.2.1"
    (tmp_path / f"{NAME}.txt").write_text("# image: team/trtllm:7\n# python: >=3.99\ntensorrt-llm==1.2.1\n")
    fake.add_image("team/trtllm:7", "sha256:new")
    with pytest.raises(ToolchainError, match=r"but must be >=3\.99"):
        toolchains.ensure(wanted)


def test_an_image_named_for_a_target_brings_its_own_python(fake: FakeDocker, tmp_path: Path) -> None:
    fake.use_commands_of(make_release(tmp_path / "release", "1.2.1").bin)
    fake.add_image("team/own:1")
    toolchain = toolchains.ensure(toolchains.identify(NAME, "container", "team/own:1"))
    assert toolchain.image == "team/own:1"
    assert toolchains.known_facts(toolchain)["python"].startswith(f"{MINOR}.")


def test_a_release_without_a_known_image_says_how_to_name_one() -> None:
    with pytest.raises(ToolchainError, match="no container image is known") as caught:
        toolchains.identify("tensorrt-llm-1.3.0rc3", "container")
    assert "# image: nvidia/tensorrt-llm/release:1.3.0rc3" in caught.value.remedy


@pytest.mark.parametrize(
    ("image", "registry", "expected"),
    [
        (IMAGE, "", IMAGE),
        (IMAGE, "mirror.example.com/ngc/", f"mirror.example.com/ngc/{IMAGE}"),
        ("own.example.com/trtllm:1", "mirror.example.com", "own.example.com/trtllm:1"),
        ("localhost:5000/trtllm:1", "mirror.example.com", "localhost:5000/trtllm:1"),
        ("trtllm:1", "mirror.example.com", "mirror.example.com/trtllm:1"),
    ],
)
def test_the_registry_of_this_machine_is_put_before_images_that_name_none(
    image: str, registry: str, expected: str
) -> None:
    assert image_reference(image, {"ENGINERY_CONTAINER_REGISTRY": registry}) == expected


# Preparing


@pytest.mark.usefixtures("release")
def test_an_image_is_pulled_once_and_looked_into_once(fake: FakeDocker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINERY_CONTAINER_REGISTRY", "mirror.example.com")
    fake.add_image(f"mirror.example.com/{IMAGE}", "sha256:abc", pulled=False)
    wanted = local_python(toolchains.identify(NAME, "container"))
    first = toolchains.ensure(wanted)
    assert first.image == f"mirror.example.com/{IMAGE}"
    assert len(fake.calls("pull")) == 1
    looked = len(fake.calls("run"))
    assert toolchains.ensure(wanted) == first
    assert len(fake.calls("pull")) == 1
    assert len(fake.calls("run")) == looked


@pytest.mark.usefixtures("release")
def test_what_was_found_in_an_image_is_known_without_starting_it(fake: FakeDocker) -> None:
    fake.add_image(IMAGE, "sha256:abc")
    toolchain = toolchains.ensure(local_python(toolchains.identify(NAME, "container")))
    runs = len(fake.calls("run"))
    found = toolchains.known_facts(toolchain)
    assert (found["tensorrt-llm"], found["verdict"], found["image-id"]) == ("1.2.1", "engine", "sha256:abc")
    assert len(fake.calls("run")) == runs


@pytest.mark.usefixtures("release")
def test_an_image_that_has_changed_is_looked_into_again(fake: FakeDocker) -> None:
    fake.add_image(IMAGE, "sha256:old")
    wanted = local_python(toolchains.identify(NAME, "container"))
    toolchains.ensure(wanted)
    fake.add_image(IMAGE, "sha256:new")
    assert toolchains.known_facts(toolchains.ensure(wanted))["image-id"] == "sha256:new"


def test_an_image_with_another_release_is_refused_and_both_are_named(fake: FakeDocker, tmp_path: Path) -> None:
    fake.use_commands_of(make_release(tmp_path / "other", "1.1.0").bin)
    fake.add_image(IMAGE)
    wanted = local_python(toolchains.identify(NAME, "container"))
    with pytest.raises(ToolchainError, match=r"tensorrt-llm is 1\.1\.0, but the pin is ==1\.2\.1"):
        toolchains.ensure(wanted)
    assert not toolchains.status(NAME).created


@pytest.mark.usefixtures("release")
def test_an_image_with_another_python_is_refused(fake: FakeDocker) -> None:
    fake.add_image(IMAGE)
    wanted = toolchains.identify(NAME, "container").model_copy(update={"python": "3.5"})
    with pytest.raises(ToolchainError, match=r"Python is 3\.\d+\.\d+, but must be ==3\.5\.\*"):
        toolchains.ensure(wanted)


@pytest.mark.usefixtures("release")
def test_a_toolchain_that_was_made_is_listed_and_checked(fake: FakeDocker) -> None:
    fake.add_image(IMAGE)
    assert NAME not in toolchains.names()
    toolchains.ensure(local_python(toolchains.identify(NAME, "container")))
    assert NAME in toolchains.names()
    assert toolchains.status(NAME).created
    report = toolchains.check(NAME)
    assert report.good
    assert (report.verdict, report.disagreements) == ("engine", ())


# Docker's answers


def test_a_machine_without_docker_gets_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match="needs docker") as caught:
        toolchains.ensure(toolchains.identify(NAME, "container"))
    assert "venv or host" in caught.value.remedy


@pytest.mark.parametrize(
    "answer",
    [
        "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",
        "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock",
    ],
)
def test_a_daemon_that_does_not_answer_is_named(fake: FakeDocker, answer: str) -> None:
    fake.change("fail", answer)
    with pytest.raises(ToolchainError, match="docker's daemon does not answer") as caught:
        toolchains.ensure(toolchains.identify(NAME, "container"))
    assert "docker info" in caught.value.remedy


@pytest.mark.usefixtures("fake")
def test_an_image_that_cannot_be_pulled_says_which_setting_names_the_registry() -> None:
    with pytest.raises(ToolchainError, match="docker cannot get the image") as caught:
        toolchains.ensure(toolchains.identify(NAME, "container"))
    assert "ENGINERY_CONTAINER_REGISTRY" in caught.value.remedy
    assert "pull access denied" in caught.value.problem


@pytest.mark.parametrize(
    ("answer", "transient"),
    [
        ('Error response from daemon: Get "https://registry.example.com/v2/": net/http: TLS handshake timeout', True),
        ("toomanyrequests: You have reached your pull rate limit.", True),
        ("Error response from daemon: unauthorized: authentication required", False),
    ],
)
def test_only_what_can_pass_is_worth_another_try(fake: FakeDocker, answer: str, transient: bool) -> None:  # noqa: FBT001
    fake.add_image(IMAGE, pulled=False)
    fake.change("no-pulls", answer)
    with pytest.raises(ToolchainError) as caught:
        toolchains.ensure(toolchains.identify(NAME, "container"))
    assert caught.value.transient is transient

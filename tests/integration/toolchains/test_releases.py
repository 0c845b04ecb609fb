"""Tests of the toolchains of TensorRT-LLM's releases, which need no pin file.

TensorRT-LLM itself is not used: the tests make wheels, and PATH has the stand-in of tests/support/trtllm.
"""

import os
import sys
import zipfile
from pathlib import Path

import pytest

from enginery import toolchains
from enginery.core.errors import ToolchainError, UsageError
from enginery.releases.facts import releases
from enginery.toolchains import pins
from enginery.toolchains.examples import checkout_version, examples_dir, image_examples
from enginery.toolchains.identity import ToolchainIdentity
from enginery.toolchains.venv import stub_error
from tests.support.toolchains.wheels import make_wheel
from tests.support.trtllm import make_release

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
NAME = "tensorrt-llm-1.2.1"

STUB_OF_NOW = """\
Looking in indexes: https://index.example.com/simple
Collecting tensorrt-llm==1.2.1
  Downloading tensorrt_llm-1.2.1.tar.gz (10 kB)
  Preparing metadata (pyproject.toml): finished with status 'error'
        File "/tmp/overlay/lib/python3.12/site-packages/wheel_stub/wheel.py", line 249, in download_wheel
      urllib.error.URLError: <urlopen error [Errno -2] Name or service not known>
      $ pip install --extra-index-url https://wheels.example.com/ tensorrt-llm
""".splitlines()
"""Pip's output for the stub of 1.2.1. It is shortened, and the host names are changed."""

STUB_OF_OLD = """\
Collecting tensorrt-llm==0.8.0
  Downloading tensorrt-llm-0.8.0.tar.gz (6.9 kB)
  Getting requirements to build wheel: finished with status 'error'
      RuntimeError: Bad params
""".splitlines()


@pytest.fixture
def pip_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory where pip looks for packages."""
    directory = tmp_path / "wheels"
    directory.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return directory


def identity_here(name: str = NAME) -> ToolchainIdentity:
    """A release's toolchain with the Python that runs these tests."""
    return toolchains.identify(name).model_copy(update={"python": MINOR})


# Names and identities


@pytest.mark.parametrize("release", releases())
def test_every_release_has_a_toolchain_without_a_pin_file(release: str) -> None:
    found = toolchains.describe(f"tensorrt-llm-{release}")
    assert found.pins == (f"tensorrt-llm=={release}",)
    assert found.path is None
    assert (found.release, found.probe) == (release, ("tensorrt_llm",))


def test_a_release_of_which_nothing_is_recorded_has_one_too() -> None:
    found = toolchains.describe("tensorrt-llm-1.2.0rc7")
    assert found.pins == ("tensorrt-llm==1.2.0rc7",)


@pytest.mark.parametrize(
    ("release", "python"),
    [("0.8.0", "3.10"), ("0.15.0", "3.10"), ("0.16.0", "3.12"), ("0.17.0.post1", "3.12"), ("1.2.1", "3.12")],
)
def test_the_python_is_the_one_of_the_releases_newest_container(release: str, python: str) -> None:
    assert toolchains.identify(f"tensorrt-llm-{release}").python == python


def test_a_release_without_a_listed_container_has_the_newest_python_it_names() -> None:
    assert toolchains.identify("tensorrt-llm-1.3.0rc3").python == "3.12"
    assert toolchains.identify("tensorrt-llm-0.17.0.dev2024121700").python == "3.10"


def test_an_identity_is_the_same_on_every_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    identity = toolchains.identify(NAME)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert toolchains.identify(NAME) == identity
    assert identity == ToolchainIdentity(name=NAME, kind="venv", pins=("tensorrt-llm==1.2.1",), python="3.12")


def test_a_new_field_of_identities_has_not_changed_the_digests_of_old_ones() -> None:
    """The digests are in the keys of all existing steps."""
    old = ToolchainIdentity(name="tiny", kind="venv", pins=("tinytool==1.2",), python="3.11")
    assert old.digest() == "0d69d8b0f9ac89c6b86e0b5756e753aa0f85542543f8cc881fc292da57c49898"


def test_a_pin_file_of_the_same_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{NAME}.txt").write_text(f"# python: =={MINOR}.*\ntensorrt-llm==1.2.1\ntorch==2.9.1\n")
    monkeypatch.setenv("ENGINERY_TOOLCHAINS", str(tmp_path))
    assert toolchains.identify(NAME).pins == ("tensorrt-llm==1.2.1", "torch==2.9.1")


@pytest.mark.parametrize("name", ["tensorrt-llm-0.7.1", "tensorrt-llm-newest", "tensorrt-llm-", "tensorrt-llm"])
def test_what_is_no_known_release_is_refused(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        toolchains.describe(name)
    assert caught.value.remedy


def test_an_unknown_name_is_answered_with_the_form_of_these() -> None:
    with pytest.raises(UsageError) as caught:
        toolchains.describe("tensorrt-llm-newest")
    assert "tensorrt-llm-<release>" in caught.value.remedy


def test_releases_that_were_never_made_are_not_listed() -> None:
    assert not any(name.startswith("tensorrt-llm-") for name in toolchains.names())
    assert not toolchains.status(NAME).created


def test_the_release_of_a_name_is_found() -> None:
    assert pins.release_of(pins.toolchain_name("0.17.0.post1")) == "0.17.0.post1"
    assert pins.release_of("onnxruntime-0.18") is None


# venv


def test_a_release_is_installed_and_what_it_can_do_is_kept(pip_finds: Path) -> None:
    make_wheel(pip_finds, "tensorrt_llm", "1.2.1", source="__version__ = '1.2.1'")
    toolchain = toolchains.ensure(identity_here())
    found = toolchains.known_facts(toolchain)
    assert found["tensorrt-llm"] == "1.2.1"
    assert found["verdict"] == "checkpoint-only"
    assert found["verdict-reason"] == "there is no trtllm-build in it"
    assert NAME in toolchains.names()


def test_a_python_that_is_not_here_is_named_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    wanted = toolchains.identify(NAME).model_copy(update={"python": "3.29"})
    with pytest.raises(ToolchainError, match=r"needs Python ==3\.29\.\*.* none on PATH") as caught:
        toolchains.ensure(wanted)
    assert caught.value.subject == NAME
    assert "python3.29-venv" in caught.value.remedy
    assert "container" in caught.value.remedy


def make_stub(directory: Path, says: str) -> None:
    """Make a source package like NVIDIA's placeholder, whose build fails with this message."""
    setup = f"import sys\nprint({says!r})\nsys.exit(1)\n"
    build = "[build-system]\nrequires = []\nbuild-backend = 'stub'\nbackend-path = ['.']\n"
    backend = f"def build_wheel(*args, **kwargs):\n    raise RuntimeError({says!r})\n"
    path = directory / "tensorrt_llm-1.2.1.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tensorrt_llm-1.2.1/setup.py", setup)
        archive.writestr("tensorrt_llm-1.2.1/pyproject.toml", build)
        archive.writestr("tensorrt_llm-1.2.1/stub.py", backend)
        archive.writestr("tensorrt_llm-1.2.1/PKG-INFO", "Metadata-Version: 2.1\nName: tensorrt_llm\nVersion: 1.2.1\n")


def test_a_stub_on_the_index_is_one_clear_error(pip_finds: Path) -> None:
    make_stub(pip_finds, "wheel_stub: pip install --extra-index-url https://wheels.example.com/ tensorrt-llm")
    with pytest.raises(ToolchainError, match="only a stub of TensorRT-LLM") as caught:
        toolchains.ensure(identity_here())
    assert "https://wheels.example.com/" in caught.value.remedy
    assert "pip config set" in caught.value.remedy
    assert "Traceback" not in str(caught.value)
    assert not caught.value.transient
    assert not toolchains.status(NAME).created


def test_the_index_that_a_stub_names_is_passed_on() -> None:
    error = stub_error(STUB_OF_NOW, NAME)
    assert error is not None
    assert "add https://wheels.example.com/ (the stub names it)" in error.remedy


def test_an_old_stub_without_a_message_is_recognized_as_a_source_package() -> None:
    error = stub_error(STUB_OF_OLD, "tensorrt-llm-0.8.0")
    assert error is not None
    assert "NVIDIA's index of Python packages" in error.remedy


def test_a_failure_that_has_nothing_to_do_with_a_stub_is_left_to_pips_words(pip_finds: Path) -> None:
    assert not list(pip_finds.iterdir())
    with pytest.raises(ToolchainError, match=r"No matching distribution found for tensorrt-llm==1\.2\.1"):
        toolchains.ensure(identity_here())


# host


def test_a_host_with_the_release_is_known_by_the_versions_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", make_release(tmp_path, "0.8.0").environment()["PATH"])
    identity = toolchains.identify("tensorrt-llm-0.8.0", "host")
    assert identity.pins == ("tensorrt==9.2.0.post12.dev5", "tensorrt-llm==0.8.0")
    assert toolchains.ensure(identity).python == tmp_path / "bin" / "python3"


def test_a_host_with_another_release_is_refused_and_both_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", make_release(tmp_path, "1.1.0").environment()["PATH"])
    with pytest.raises(ToolchainError, match=r"has TensorRT-LLM 1\.1\.0, but 1\.2\.1"):
        toolchains.identify(NAME, "host")


def test_another_tensorrt_makes_another_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = os.environ["PATH"]
    digests = set()
    for tensorrt in ("10.14.1.48", "10.14.1.49"):
        made = make_release(tmp_path / tensorrt, "1.2.1", tensorrt=tensorrt)
        monkeypatch.setenv("PATH", made.environment({"PATH": path})["PATH"])
        digests.add(toolchains.identify(NAME, "host").digest())
    assert len(digests) == 2


def test_a_checkout_on_the_path_counts_by_the_version_its_module_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt_llm.py").write_text("__version__ = '1.2.1'\n")
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "python3").write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    (binaries / "python3").chmod(0o755)
    monkeypatch.setenv("PATH", f"{binaries}{os.pathsep}{os.environ['PATH']}")
    assert toolchains.identify(NAME, "host").pins == ("tensorrt-llm==1.2.1",)


# Examples


def checkout(directory: Path, version: str = "1.2.1") -> Path:
    (directory / "examples").mkdir(parents=True)
    (directory / "tensorrt_llm").mkdir()
    (directory / "tensorrt_llm" / "version.py").write_text(f'# A licence.\n__version__ = "{version}"\n')
    return directory / "examples"


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("nvidia/tritonserver:26.07-trtllm-python-py3", "/app/examples"),
        ("mirror.example.com/nvidia/tritonserver:25.05-trtllm-python-py3", "/app/examples"),
        ("nvidia/tritonserver:24.12-trtllm-python-py3", None),
        ("nvidia/tensorrt-llm/release:1.3.0rc3", "/app/tensorrt_llm/examples"),
        ("team/own:1", None),
    ],
)
def test_images_have_the_examples_where_their_users_found_them(image: str, expected: str | None) -> None:
    found = image_examples(image)
    assert (str(found) if found else None) == expected


def test_a_container_has_its_own_examples() -> None:
    assert examples_dir(toolchains.identify(NAME, "container")) == Path("/app/examples")


def test_an_image_without_examples_asks_for_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = toolchains.identify("tensorrt-llm-0.8.0", "container")
    with pytest.raises(ToolchainError, match="24.02-trtllm-python-py3 is not known to have") as caught:
        examples_dir(old)
    assert "v0.8.0" in caught.value.remedy
    monkeypatch.setenv("ENGINERY_TRTLLM_EXAMPLES", str(checkout(tmp_path, "0.8.0")))
    assert examples_dir(old) == tmp_path / "examples"


def test_a_venv_without_a_checkout_says_what_to_do() -> None:
    with pytest.raises(ToolchainError, match="its wheel does not have them") as caught:
        examples_dir(toolchains.identify(NAME))
    assert "tag v1.2.1" in caught.value.remedy
    assert "ENGINERY_TRTLLM_EXAMPLES" in caught.value.remedy


def test_the_specs_directory_comes_before_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINERY_TRTLLM_EXAMPLES", str(checkout(tmp_path / "environment")))
    named = checkout(tmp_path / "spec")
    assert examples_dir(toolchains.identify(NAME), str(named)) == named
    assert examples_dir(toolchains.identify(NAME)) == tmp_path / "environment" / "examples"


def test_a_checkout_of_another_release_is_refused_and_both_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        ToolchainError, match=r"are of TensorRT-LLM 1\.1\.0, the toolchain tensorrt-llm-1\.2\.1 is 1\.2"
    ):
        examples_dir(toolchains.identify(NAME), str(checkout(tmp_path, "1.1.0")))


def test_a_checkout_that_does_not_say_its_version_is_taken(tmp_path: Path) -> None:
    assert checkout_version(tmp_path) == ""
    assert examples_dir(toolchains.identify(NAME), str(tmp_path)) == tmp_path


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match="no such directory") as caught:
        examples_dir(toolchains.identify(NAME), str(tmp_path / "nowhere"))
    assert "v1.2.1" in caught.value.remedy

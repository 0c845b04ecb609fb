"""Tests of the files and settings for nvidia-pytriton's Triton. No server is started."""

import os
import sys
from pathlib import Path

import pytest

from enginery.core.errors import CommandError, ToolchainError
from enginery.dev.triton import ServingPython, server_command, server_environment, start_triton, write_backends


@pytest.fixture
def site(tmp_path: Path) -> Path:
    server = tmp_path / "site" / "pytriton" / "tritonserver"
    files = [
        "bin/tritonserver",
        "backends/python/libtriton_python.so",
        "backends/python/triton_python_backend_utils.py",
        "backends/python/__pycache__/x.pyc",
        "python_backend_stubs/3.10/triton_python_backend_stub",
        "python_backend_stubs/3.11/triton_python_backend_stub",
    ]
    for name in files:
        (server / name).parent.mkdir(parents=True, exist_ok=True)
        (server / name).write_text(name)
    return tmp_path / "site"


def python(directory: Path, version: str = "3.11") -> ServingPython:
    library = directory / "lib" / f"libpython{version}.so.1.0"
    library.parent.mkdir(exist_ok=True)
    library.write_text(f"library of {version}")
    (library.parent / "libcudnn.so.9").touch()
    return ServingPython(directory / "bin" / "python", version, library)


def test_the_backend_gets_the_stub_of_the_models_python(site: Path, tmp_path: Path) -> None:
    backends = write_backends(tmp_path / "overlay", site, python(tmp_path))
    names = {path.name: path.read_text() for path in (backends / "python").iterdir()}
    library = "libpython3.11.so.1.0"
    assert set(names) == {
        "libtriton_python.so",
        "triton_python_backend_utils.py",
        "triton_python_backend_stub",
        library,
    }
    assert names[library] == "library of 3.11"
    assert "3.11" in names["triton_python_backend_stub"]


def test_the_wheel_is_left_as_it_is(site: Path, tmp_path: Path) -> None:
    before = sorted(site.rglob("*"))
    write_backends(tmp_path / "overlay", site, python(tmp_path))
    assert sorted(site.rglob("*")) == before


def test_another_python_version_replaces_the_stub(site: Path, tmp_path: Path) -> None:
    write_backends(tmp_path / "overlay", site, python(tmp_path))
    backends = write_backends(tmp_path / "overlay", site, python(tmp_path, "3.10"))
    assert "3.10" in (backends / "python" / "triton_python_backend_stub").read_text()


def test_a_python_triton_has_no_stub_for_is_refused(site: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match=r"Python 2\.7") as caught:
        write_backends(tmp_path / "overlay", site, python(tmp_path, "2.7"))
    assert "3.10, 3.11" in caught.value.remedy


def test_a_directory_without_triton_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match="no Triton here"):
        write_backends(tmp_path / "overlay", tmp_path, python(tmp_path))


def test_models_find_their_python_and_the_server_its_libraries(tmp_path: Path) -> None:
    base = {"PATH": "/bin", "LD_LIBRARY_PATH": "/own", "AWS_ACCESS_KEY_ID": "key"}
    environment = server_environment(base, tmp_path / "site", tmp_path / "backends", python(tmp_path))
    assert environment["PATH"].split(os.pathsep) == [str(tmp_path / "bin"), "/bin"]
    libraries = [str(tmp_path / "site" / "nvidia_pytriton.libs"), str(tmp_path / "backends" / "python"), "/own"]
    assert environment["LD_LIBRARY_PATH"].split(os.pathsep) == libraries
    assert environment["AWS_ACCESS_KEY_ID"] == "key"


def test_only_pythons_own_library_is_added_from_its_directory(site: Path, tmp_path: Path) -> None:
    backends = write_backends(tmp_path / "overlay", site, python(tmp_path))
    searched = server_environment({}, site, backends, python(tmp_path))["LD_LIBRARY_PATH"].split(os.pathsep)
    found = {path.name for directory in searched for path in Path(directory).glob("*")}
    assert "libpython3.11.so.1.0" in found
    assert "libcudnn.so.9" not in found


def test_no_empty_library_path_means_the_working_directory(tmp_path: Path) -> None:
    environment = server_environment({"PATH": "/bin"}, tmp_path / "site", tmp_path / "backends", python(tmp_path))
    assert "" not in environment["LD_LIBRARY_PATH"].split(os.pathsep)


@pytest.mark.parametrize("load_all", [True, False])
def test_the_server_listens_on_loopback_only(tmp_path: Path, *, load_all: bool) -> None:
    argv = server_command("s3://http://127.0.0.1:9/b/p", tmp_path, tmp_path / "backends", (1, 2, 3), load_all=load_all)
    for service, port in (("http", 1), ("grpc", 2), ("metrics", 3)):
        assert {f"--{service}-address=127.0.0.1", f"--{service}-port={port}"} <= set(argv)
    assert "--model-repository=s3://http://127.0.0.1:9/b/p" in argv
    assert ("--load-model=*" in argv) is load_all


def executable(path: Path, answer: str) -> Path:
    path.write_text(f"#!{sys.executable}\nprint({answer!r})\n")
    path.chmod(0o755)
    return path


def test_a_python_without_shared_library_is_refused(tmp_path: Path) -> None:
    answer = f'{{"version": "3.11", "library_directories": ["", "{tmp_path}"]}}'
    with pytest.raises(ToolchainError, match=r"no shared library libpython3\.11\.so"):
        ServingPython.find(executable(tmp_path / "python", answer))


def test_the_shared_library_is_looked_for_where_python_says(tmp_path: Path) -> None:
    (tmp_path / "libpython3.11.so.1.0").touch()
    answer = f'{{"version": "3.11", "library_directories": ["/none", "{tmp_path}"]}}'
    found = ServingPython.find(executable(tmp_path / "python", answer))
    assert (found.version, found.library) == ("3.11", tmp_path / "libpython3.11.so.1.0")


def test_a_python_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError):
        ServingPython.find(tmp_path / "nowhere" / "python")


def test_a_server_that_cannot_start_says_why(site: Path, tmp_path: Path) -> None:
    (tmp_path / "libpython3.11.so.1.0").touch()
    answer = f'{{"version": "3.11", "library_directories": ["{tmp_path}"]}}'
    serving_python = executable(tmp_path / "python", answer)
    server = site / "pytriton" / "tritonserver" / "bin" / "tritonserver"
    server.write_text("#!/bin/sh\necho no such bucket\nexit 1\n")
    server.chmod(0o755)
    with pytest.raises(CommandError, match="ended while it was starting") as caught:
        start_triton("s3://bucket", triton_site=site, serving_python=serving_python, log_file=tmp_path / "triton.log")
    assert "no such bucket" in caught.value.last_lines

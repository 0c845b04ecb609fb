"""Tests of toolchains as real virtual environments. The tests make the wheels, so they need no network."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from enginery import toolchains
from enginery.core import process
from enginery.core.errors import ToolchainError, UsageError
from enginery.toolchains import venv
from enginery.toolchains.identity import ToolchainIdentity
from tests.support.toolchains.wheels import make_wheel
from tests.support.waiting import wait_until

MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
WritePins = Callable[..., Path]


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    directory = tmp_path / "wheels"
    directory.mkdir()
    make_wheel(directory, "tinytool", "1.2", source="ANSWER = 9")
    return directory


@pytest.fixture
def pins(tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> WritePins:
    """Writes pin files to a directory of its own. Pip finds only the wheels of these tests."""
    directory = tmp_path / "pins"
    directory.mkdir()
    monkeypatch.setenv("ENGINERY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ENGINERY_TOOLCHAINS", str(directory))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)

    def write(name: str, *lines: str) -> Path:
        path = directory / f"{name}.txt"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def ask(toolchain: toolchains.Toolchain, script: str) -> str:
    argv = [str(toolchain.python), "-c", script]
    return process.run(argv, env=toolchain.environment, log=lambda _line: None).last_lines[-1]


# Pin files


def test_the_toolchains_that_come_with_enginery_are_listed_and_read() -> None:
    assert {"onnxruntime-0.18", "triton-2.51"} <= set(toolchains.names())
    for name in toolchains.names():
        assert toolchains.describe(name).pins
    onnxruntime = toolchains.describe("onnxruntime-0.18")
    assert (onnxruntime.backend, onnxruntime.release) == ("onnxruntime", "0.18.0")
    assert onnxruntime.probe == ("onnxruntime_genai",)
    assert "onnxruntime-genai==0.18.0" in onnxruntime.pins
    assert toolchains.describe("triton-2.51").options == ("--no-deps",)


def test_own_pin_files_are_found_before_those_that_come_along(pins: WritePins) -> None:
    path = pins("triton-2.51", "tinytool==1.2")
    assert toolchains.describe("triton-2.51").path == path


def test_an_unknown_toolchain_is_an_error_that_lists_the_known(pins: WritePins) -> None:
    pins("mine", "tinytool==1.2")
    with pytest.raises(UsageError, match="no such toolchain") as caught:
        toolchains.identify("onnxruntime-9.9")
    assert "onnxruntime-0.18" in caught.value.remedy
    assert "mine" in caught.value.remedy


@pytest.mark.parametrize(
    ("lines", "mistake"),
    [
        (["tinytool>=1"], "line 1: 'tinytool>=1' must be of the form name==version"),
        (["tinytool==1.*"], "form name==version"),
        (["tinytool"], "form name==version"),
        (["", "tinytool @ file:///tmp/x.whl"], "line 2: .* form name==version"),
        (["-r other.txt"], "not a requirement"),
        (["# only a comment"], "pins nothing"),
        (["# pyhton: >=3.11", "tinytool==1.2"], "unknown header 'pyhton'"),
        (["# python: new", "tinytool==1.2"], "not a range of versions"),
        (["# options: --index-url", "tinytool==1.2"], "--index-url not among"),
    ],
)
def test_mistakes_in_a_pin_file_are_named(pins: WritePins, lines: list[str], mistake: str) -> None:
    path = pins("bad", *lines)
    with pytest.raises(ToolchainError, match=mistake) as caught:
        toolchains.describe("bad")
    assert caught.value.subject == str(path)


def test_no_pin_file_outside_its_directories_can_be_named(pins: WritePins, tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("tinytool==1.2\n")
    with pytest.raises(UsageError):
        toolchains.describe("../outside")


# Identity


def test_an_identity_is_known_without_making_anything(pins: WritePins, tmp_path: Path) -> None:
    pins("tiny", "TinyTool==1.2  # the tool", "", "# python: >=3.11", "# options: --no-deps")
    identity = toolchains.identify("tiny")
    assert identity == ToolchainIdentity(name="tiny", kind="venv", pins=("--no-deps", "tinytool==1.2"), python=MINOR)
    assert not (tmp_path / "home").exists()


def test_comments_and_order_do_not_change_an_identity_but_versions_and_options_do(pins: WritePins) -> None:
    pins("tiny", "a==1", "b==2")
    first = toolchains.identify("tiny").digest()
    pins("tiny", "# Sorted the other way.", "b==2", "a==1")
    assert toolchains.identify("tiny").digest() == first
    pins("tiny", "a==1", "b==3")
    changed = toolchains.identify("tiny").digest()
    pins("tiny", "# options: --no-deps", "a==1", "b==2")
    assert len({first, changed, toolchains.identify("tiny").digest()}) == 3


def test_a_python_that_nobody_has_is_an_error_that_names_it(pins: WritePins) -> None:
    pins("old", "# python: >=3.4,<3.5", "tinytool==1.2")
    with pytest.raises(ToolchainError, match=r"needs Python .*3\.4.* none on PATH"):
        toolchains.identify("old")


def test_another_python_on_path_is_taken_when_the_running_one_does_not_fit(
    pins: WritePins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other Python only claims to be 3.29, which does not exist yet."""
    pins("future", "# python: >=3.29", "tinytool==1.2")
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "python3.30").write_text("#!/bin/sh\nexit 127\n")  # a shim that starts nothing
    (binaries / "python3.29").write_text("#!/bin/sh\necho probe python 3.29.1\n")
    for path in binaries.iterdir():
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{binaries}:{os.environ['PATH']}")
    assert toolchains.identify("future").python == "3.29"


# Making


def test_a_toolchain_is_made_once_apart_from_everything_else_and_readably_remembered(
    pins: WritePins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins("tiny", "# probe: tinytool", "tinytool==1.2")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "tinytool.py").write_text("ANSWER = 'wrong'")
    for name in ("PYTHONPATH", "PYTHONHOME"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    lines: list[str] = []
    toolchain = toolchains.ensure("tiny", lines.append)
    assert ask(toolchain, "import tinytool; print(tinytool.ANSWER)") == "9"
    assert toolchain.directory == toolchains.location(toolchain.identity)
    assert toolchain.directory.parent == tmp_path / "home" / "toolchains"
    assert toolchain.environment["PATH"].startswith(f"{toolchain.directory}/bin:")
    assert toolchain.environment["VIRTUAL_ENV"] == str(toolchain.directory)
    assert toolchain.environment["PYTHONNOUSERSITE"] == "1"
    assert not {"PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE"} & set(toolchain.environment)
    assert any("Successfully installed tinytool-1.2" in line for line in lines)
    assert toolchains.known_facts(toolchain) == {
        "python": ask(toolchain, "import platform; print(platform.python_version())"),
        "tinytool": "1.2",
    }
    again: list[str] = []
    assert toolchains.ensure("tiny", again.append) == toolchain
    assert again == []
    ready = json.loads((toolchain.directory / "ready.json").read_text())
    assert ToolchainIdentity.model_validate(ready["identity"]) == toolchain.identity
    assert ready["probe"]["tinytool"] == "1.2"


def test_options_reach_pip_and_labels_and_markers_are_no_mismatch(pins: WritePins, wheels: Path) -> None:
    make_wheel(wheels, "needy", "1", requires=("not-to-be-found-anywhere",))
    make_wheel(wheels, "torchlike", "2.13.0+cpu")
    lines = ("needy==1", "torchlike==2.13.0", "ancient==1 ; python_version < '3'")
    pins("mixed", "# options: --no-deps", *lines)
    facts = toolchains.known_facts(toolchains.ensure("mixed"))
    assert (facts["needy"], facts["torchlike"]) == ("1", "2.13.0+cpu")
    report = toolchains.check("mixed")
    assert report.good
    assert report.mismatches == ()


def test_a_version_that_cannot_be_had_is_an_error_with_pips_words(pins: WritePins) -> None:
    pins("none", "tinytool==9.9")
    with pytest.raises(ToolchainError, match=r"No matching distribution found for tinytool==9\.9") as caught:
        toolchains.ensure("none")
    assert not caught.value.transient
    assert "pip config list" in caught.value.remedy


def test_an_unreachable_index_is_an_error_that_can_pass(pins: WritePins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # no server uses the discard port
    monkeypatch.setenv("PIP_RETRIES", "1")
    pins("none", "absent-tool==9.9")
    with pytest.raises(ToolchainError) as caught:
        toolchains.ensure("none")
    assert caught.value.transient
    assert "network" in caught.value.remedy


def test_a_toolchain_whose_module_does_not_import_is_never_ready(pins: WritePins, wheels: Path) -> None:
    make_wheel(wheels, "broken", "1", source="import no_such_library")
    pins("broken", "# probe: broken", "broken==1")
    for _ in range(2):
        with pytest.raises(ToolchainError, match="broken cannot be imported .*no_such_library"):
            toolchains.ensure("broken")
    assert not toolchains.check("broken").created


def test_a_half_made_toolchain_and_one_whose_python_has_gone_are_made_again(pins: WritePins) -> None:
    pins("tiny", "tinytool==1.2")
    toolchain = toolchains.ensure("tiny")
    (toolchain.directory / "ready.json").unlink()
    (toolchain.directory / "rubbish").touch()
    assert toolchains.ensure("tiny") == toolchain
    assert not (toolchain.directory / "rubbish").exists()
    assert ask(toolchain, "import tinytool; print(tinytool.ANSWER)") == "9"
    toolchain.python.unlink()
    toolchains.ensure("tiny")
    assert ask(toolchain, "import tinytool; print(tinytool.ANSWER)") == "9"


def test_a_toolchain_needs_no_pip_in_enginerys_own_environment(
    pins: WritePins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(venv.importlib.util, "find_spec", lambda _name: None)  # type: ignore[attr-defined]
    pins("tiny", "tinytool==1.2")
    assert toolchains.known_facts(toolchains.ensure("tiny"))["tinytool"] == "1.2"


ENSURE = """
import sys
from enginery import toolchains
toolchains.ensure("tiny", lambda line: print(line, flush=True))
"""


def start_ensure() -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", ENSURE], stdout=subprocess.PIPE, text=True, start_new_session=True)


def test_two_processes_make_a_toolchain_only_once(pins: WritePins) -> None:
    pins("tiny", "tinytool==1.2")
    outputs = [creator.communicate(timeout=120)[0] for creator in [start_ensure(), start_ensure(), start_ensure()]]
    assert sum("making toolchain tiny in" in output for output in outputs) == 1
    assert toolchains.check("tiny").good


def test_a_killed_creator_leaves_nothing_usable_and_the_next_one_succeeds(
    pins: WritePins, wheels: Path, tmp_path: Path
) -> None:
    """The module that is imported at creation waits for a file, so that the kill comes in the middle."""
    go = tmp_path / "go"
    touch = f"import os, time\nopen({str(tmp_path / 'here')!r}, 'w').close()\n"
    script = f"{touch}while not os.path.exists({str(go)!r}): time.sleep(0.05)"
    make_wheel(wheels, "slow", "1", source=script)
    pins("tiny", "# probe: slow", "slow==1")
    creator = start_ensure()
    wait_until((tmp_path / "here").exists, seconds=60)
    os.killpg(creator.pid, signal.SIGKILL)
    creator.communicate()
    assert not toolchains.check("tiny").created
    go.touch()
    lines: list[str] = []
    toolchains.ensure("tiny", lines.append)
    assert any("interrupted creation" in line for line in lines)
    assert toolchains.check("tiny").good


# Checking


def test_a_check_says_that_the_toolchain_is_not_made_yet(pins: WritePins) -> None:
    pins("tiny", "tinytool==1.2")
    report = toolchains.check("tiny")
    assert not report.created
    assert not report.good
    assert not report.directory.exists()


def test_a_check_lists_every_difference(pins: WritePins, wheels: Path) -> None:
    make_wheel(wheels, "second", "1")
    pins("tiny", "# probe: tinytool", "tinytool==1.2", "second==1")
    toolchain = toolchains.ensure("tiny")
    assert toolchains.check("tiny").good
    library = toolchain.directory / "lib" / f"python{MINOR}" / "site-packages"
    (library / "tinytool-1.2.dist-info").rename(library / "tinytool-1.3.dist-info")
    metadata = library / "tinytool-1.3.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.2", "1.3"))
    (library / "second-1.dist-info" / "METADATA").unlink()
    (library / "second-1.dist-info" / "RECORD").unlink()
    for path in (library / "second-1.dist-info").iterdir():
        path.unlink()
    (library / "second-1.dist-info").rmdir()
    (library / "tinytool.py").write_text("raise OSError('no libgpu.so')")
    report = toolchains.check("tiny")
    assert report.mismatches == (
        "second is missing, but the pin is ==1",
        "tinytool is 1.3, but the pin is ==1.2",
        "module tinytool cannot be imported (OSError: no libgpu.so)",
    )


# Host


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The PATH of a machine whose python3 has a toolchain's packages. It is made as a toolchain."""
    directory = tmp_path_factory.mktemp("machine")
    make_wheel(directory, "tinytool", "1.2", source="ANSWER = 9")
    (directory / "tiny.txt").write_text("# probe: tinytool\ntinytool==1.2\n")
    settings = {
        "ENGINERY_HOME": str(directory / "home"),
        "ENGINERY_TOOLCHAINS": str(directory),
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(directory),
        "PIP_CONFIG_FILE": os.devnull,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        return toolchains.ensure("tiny").environment["PATH"]


@pytest.fixture
def host(machine: str, pins: WritePins, monkeypatch: pytest.MonkeyPatch) -> WritePins:
    """The toolchain of a machine where PATH's python3 has its packages."""
    pins("tiny", "# probe: tinytool", "tinytool==1.2")
    monkeypatch.setenv("PATH", machine)
    return pins


def test_host_is_what_is_on_path_with_the_versions_found(host: WritePins) -> None:
    host("release", "# probe: tinytool", "tinytool==1.0", "something-else==1")
    identity = toolchains.identify("release", "host")
    assert identity == ToolchainIdentity(name="release", kind="host", pins=("tinytool==1.2",), python=MINOR)
    toolchain = toolchains.ensure(identity)
    assert ask(toolchain, "import tinytool; print(tinytool.ANSWER)") == "9"
    assert toolchains.known_facts(toolchain) == {"python": MINOR, "tinytool": "1.2"}


def test_a_host_without_the_release_is_refused(host: WritePins) -> None:
    host("release", "# probe: tensorrt_llm", "tensorrt-llm==1.2.0")
    with pytest.raises(ToolchainError, match="does not have it.*tensorrt_llm"):
        toolchains.identify("release", "host")
    host("unprobed", "tensorrt-llm==1.2.0")
    with pytest.raises(ToolchainError, match="every package that it pins"):
        toolchains.identify("unprobed", "host")


def test_a_host_that_has_changed_since_the_plan_is_refused(host: WritePins) -> None:
    planned = toolchains.identify("tiny", "host").model_copy(update={"pins": ("tinytool==1.1",)})
    with pytest.raises(ToolchainError, match="not what the plan was made for") as caught:
        toolchains.ensure(planned)
    assert "tinytool==1.2" in caught.value.remedy


def test_a_host_without_python_is_refused(pins: WritePins, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pins("tiny", "tinytool==1.2")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match="no python3 on PATH"):
        toolchains.identify("tiny", "host")

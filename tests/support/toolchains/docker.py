"""A stand-in for the `docker` command: it takes docker's flags, and runs the command on this machine.

`calls.jsonl` beside it records each call, with the environment that the container would have. An image is a file in
`images/`, named after its reference. `registry/` holds the images that can be pulled. `fail` holds an error with which
the daemon answers every request. A "container" is an ordinary process: unlike a real one it sees the whole machine, and
ends with `docker run`. A test module imports the fixtures that it uses, and the fixtures that these use.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.trtllm import StandIn, make_release

SOURCE = """#!{python}
import json, os, signal, subprocess, sys
from pathlib import Path

HERE = Path({here!r})
SWITCHES = {{"--rm", "--init"}}
OPTIONS = {{"--name", "--user", "--network", "--hostname", "--ipc", "--ulimit", "--gpus"}}
OPTIONS |= {{"--volume", "--workdir", "--env", "--pull"}}


def fail(message, code=1):
    print(message, file=sys.stderr)
    sys.exit(code)


def file_of(folder, reference):
    return HERE / folder / reference.replace("/", "_").replace(":", "_")


def note(**what):
    with (HERE / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps({{"argv": sys.argv[1:], **what}}) + "\\n")


def run(words):
    options, variables = {{}}, {{}}
    while words and words[0].startswith("-"):
        word = words.pop(0)
        if word in SWITCHES:
            continue
        if word not in OPTIONS:
            fail(f"unknown flag: {{word}}\\nSee 'docker run --help'.", 125)
        value = words.pop(0)
        options.setdefault(word, []).append(value)
        if word == "--env":
            name, given, text = value.partition("=")
            if given or name in os.environ:
                variables[name] = text if given else os.environ[name]
    image, argv = words[0], words[1:]
    note(options=options, variables=variables, image=image, command=argv)
    if not file_of("images", image).exists():
        fail(f"docker: Error response from daemon: No such image: {{image}}", 125)
    if "--gpus" in options and (HERE / "no-toolkit").exists():
        fail('docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].', 125)
    for volume in options.get("--volume", []):
        source, place, mode = volume.split(":")
        if not Path(source).exists() or source != place:
            fail(f"docker: Error response from daemon: invalid mount {{volume}}", 125)
    name = options["--name"][0]
    path = os.pathsep.join([str(HERE / "image-bin"), os.environ["PATH"]])
    inside = {{"PATH": path, "PYTHONPATH": os.environ.get("FAKE_PYTHONPATH", ""), **variables}}
    if (HERE / "entrypoint").exists():
        argv = [str(HERE / "entrypoint"), *argv]
    try:
        # As a daemon does: what happens to `docker run` itself does not reach the container's processes.
        running = subprocess.Popen(argv, env=inside, cwd=options["--workdir"][0], start_new_session=True)
    except FileNotFoundError:
        # So says what `--init` starts the command with; the daemon would only complain were that missing.
        fail(f"[FATAL tini (7)] exec {{argv[0]}} failed: No such file or directory", 127)
    (HERE / "running" / name).write_text(str(running.pid))
    code = running.wait()
    (HERE / "running" / name).unlink(missing_ok=True)
    sys.exit(code if code >= 0 else 128 - code)


def main():
    words = sys.argv[1:]
    if (HERE / "fail").exists():
        note()
        fail((HERE / "fail").read_text())
    if words[0] == "run":
        run(words[1:])
    note()
    if words[:2] == ["image", "inspect"]:
        image = file_of("images", words[-1])
        if not image.exists():
            fail(f"Error response from daemon: No such image: {{words[-1]}}")
        print(image.read_text())
    elif words[0] == "pull":
        if (HERE / "no-pulls").exists():
            fail((HERE / "no-pulls").read_text())
        image = file_of("registry", words[1])
        if not image.exists():
            fail(f"Error response from daemon: pull access denied for {{words[1]}}, repository does not exist")
        file_of("images", words[1]).write_text(image.read_text())
        print(f"Status: Downloaded newer image for {{words[1]}}")
    elif words[:2] == ["rm", "--force"]:
        container = HERE / "running" / words[2]
        if not container.exists():
            fail(f"Error response from daemon: No such container: {{words[2]}}")
        if (HERE / "unkillable").exists():
            fail(f"Error response from daemon: cannot remove container {{words[2]}}: could not kill: permission denied")
        pid = int(container.read_text())
        container.unlink()
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        print(words[2])
    else:
        fail(f"docker: '{{words[0]}}' is not a docker command.")


main()
"""


def option_values(command: Sequence[str], option: str) -> list[str]:
    """The values of an option that may be given several times."""
    return [command[place + 1] for place, word in enumerate(command) if word == option]


class FakeDocker:
    """The stand-in in its directory, which is to be on PATH."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("images", "registry", "running", "image-bin"):
            (directory / name).mkdir(parents=True)
        command = directory / "docker"
        command.write_text(SOURCE.format(python=sys.executable, here=str(directory)))
        command.chmod(0o755)

    def calls(self, first: str = "") -> list[dict[str, Any]]:
        """The calls so far, or only those of the sub-command `first`."""
        path = self.directory / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call for call in map(json.loads, lines) if not first or call["argv"][0] == first]

    def add_image(self, reference: str, identifier: str = "sha256:1", *, pulled: bool = True) -> None:
        """Add an image to the machine, or only to the registry if it is not `pulled`."""
        folder = "images" if pulled else "registry"
        (self.directory / folder / reference.replace("/", "_").replace(":", "_")).write_text(identifier)

    def add_command(self, name: str, script: str) -> Path:
        """Add a command to every image."""
        path = self.directory / "image-bin" / name
        path.write_text(script)
        path.chmod(0o755)
        return path

    def use_commands_of(self, directory: Path) -> None:
        """Add the commands of a directory to every image."""
        (self.directory / "image-bin").rmdir()
        (self.directory / "image-bin").symlink_to(directory)

    def running(self) -> list[int]:
        """The process ids of the running containers."""
        return [int(path.read_text()) for path in (self.directory / "running").iterdir() if path.read_text()]

    def change(self, name: str, text: str = "") -> None:
        """Change the daemon from now on.

        With `fail` it answers every request with the error `text`, with `no-pulls` every pull. With `entrypoint` every
        image starts its commands with the script `text`, as NVIDIA's do. With `unkillable` no container can be killed,
        as a security module can forbid it. With `no-toolkit` it fails when a container asks for GPUs.
        """
        (self.directory / name).write_text(text)
        (self.directory / name).chmod(0o755)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
    """A docker on PATH, and a machine without a GPU of its own."""
    made = FakeDocker(tmp_path / "docker")
    monkeypatch.setenv("PATH", f"{made.directory}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return made


@pytest.fixture
def release(fake: FakeDocker, tmp_path: Path) -> StandIn:
    """The stand-in of the release; every image has its commands."""
    made = make_release(tmp_path / "release", "1.2.1")
    fake.use_commands_of(made.bin)
    return made

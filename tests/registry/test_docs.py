"""The commands and the Python of docs/registry.md run in order on a real S3 API, with the output as shown."""

import doctest
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from enginery.cli.app import main
from enginery.core import s3
from enginery.registry import Registry
from tests.support.registry.manifests import a_build, put
from tests.support.s3.server import running_s3_server

PAGE = Path(__file__).parents[2] / "docs" / "registry.md"
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LOOSE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
CANDIDATE, NEXT = "h100-5d41402abc4b", "h100-7d793037a076"


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The registry at the start of the page: two builds for one target, the first on channel candidate."""
    with running_s3_server() as server:
        for name, value in {**server.environment(), "ENGINERY_REGISTRY": "s3://engines/prod"}.items():
            monkeypatch.setenv(name, value)
        server.create_bucket("engines")
        opened = Registry("s3://engines/prod")
        put(opened, *(a_build(model="llama-3-8b", build_id=build) for build in (CANDIDATE, NEXT)))
        opened.promote(CANDIDATE, "candidate")
        yield opened
        s3.close_clients()


@pytest.mark.usefixtures("registry")
def test_what_the_page_shows_is_what_happens(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert {kind for kind, _ in blocks} == {"console", "python"}
    python = [text for kind, text in blocks if kind == "python"]
    for kind, text in blocks:
        if kind == "console":
            _check_commands(text, capsys, monkeypatch)
    _check_python("\n".join(python))


def _check_commands(text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for shown in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, wanted = shown.partition("\n")
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main()
        printed = capsys.readouterr()
        got = printed.err if wanted.startswith("error:") else printed.out
        assert doctest.OutputChecker().check_output(wanted, got, LOOSE), f"{command}\n{got}"


def _check_python(text: str) -> None:
    test = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    assert len(test.examples) > 5
    assert doctest.DocTestRunner(verbose=False).run(test).failed == 0

"""Tests of what `make` shows while pip installs."""

import subprocess
import sys

import pytest

from tests.support.paths import CHECKOUT

SCRIPT = CHECKOUT / "infra" / "pip_news.py"


def news(script: str, text: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", script], input=text, capture_output=True, text=True, check=True)
    assert not done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def eager() -> str:
    """The script, without a pause between two lines."""
    text = SCRIPT.read_text(encoding="utf-8")
    assert "NEWS_SECONDS = 3.0" in text
    return text.replace("NEWS_SECONDS = 3.0", "NEWS_SECONDS = 0.0")


def test_it_tells_what_is_downloaded_and_installed_and_nothing_else(eager: str) -> None:
    lines = news(
        eager, "Looking in links: here\n  Downloading a.whl (2 MB)\n   ━━━ 2/2 MB\nInstalling collected packages: a\n"
    )
    assert [line.partition(" s  ")[2] for line in lines] == [
        "Downloading a.whl (2 MB)",
        "Installing collected packages: a",
    ]


def test_long_lines_are_shortened_to_one_line_of_a_terminal(eager: str) -> None:
    (line,) = news(eager, f"Installing collected packages: {'package, ' * 100}\n")
    assert len(line) <= 80


def test_many_lines_at_once_are_few(eager: str) -> None:
    patient = eager.replace("NEWS_SECONDS = 0.0", "NEWS_SECONDS = 60.0")
    assert news(patient, "Collecting a\n" * 1000) == []


def test_it_tells_that_a_silent_pip_still_works(eager: str) -> None:
    impatient = eager.replace("SILENCE_SECONDS = 10.0", "SILENCE_SECONDS = 0.0")
    with subprocess.Popen(
        [sys.executable, "-c", impatient], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write("Installing collected packages: a\n")
        process.stdin.flush()
        lines = [process.stdout.readline() for _ in range(3)]
        process.stdin.close()
    assert "Installing collected packages: a" in lines[-1]

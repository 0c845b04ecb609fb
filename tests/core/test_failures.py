"""Tests of how the cause of a failed command is found in its output."""

import signal

import pytest

from enginery.core.process.failures import FailureCause, failure_of

ASKED_TOO_MUCH = "[TRT] [W] Requested amount of GPU memory (33555480576 bytes) could not be allocated."
SKIPPING = "[TRT] UNSUPPORTED_STATESkipping tactic 2 due to insufficient memory: OutOfMemory"
UNKNOWN_FLAG = "trtllm-build: error: unrecognized arguments: --gemm_plugn"


@pytest.mark.parametrize("warning", [ASKED_TOO_MUCH, SKIPPING])
def test_a_skipped_tactic_is_not_the_cause_of_a_failed_build(warning: str) -> None:
    assert failure_of(1, [warning, "AssertionError"]).cause == FailureCause.UNKNOWN
    assert failure_of(2, [warning, UNKNOWN_FLAG, warning]).cause == FailureCause.UNKNOWN_FLAG


def test_the_same_message_as_an_error_is_the_cause() -> None:
    assert failure_of(1, [ASKED_TOO_MUCH.replace("[W]", "[E]")]).cause == FailureCause.GPU_MEMORY


def test_the_last_error_is_the_cause() -> None:
    lines = ["ImportError: no fast tokenizers here, using slow ones", "torch.OutOfMemoryError: CUDA out of memory."]
    assert failure_of(1, lines).cause == FailureCause.GPU_MEMORY
    assert failure_of(1, lines[::-1]).cause == FailureCause.MISSING_LIBRARY


@pytest.mark.parametrize("code", [-signal.SIGKILL, 128 + signal.SIGKILL])
def test_a_killed_command_ran_out_of_memory_whatever_it_printed(code: int) -> None:
    assert failure_of(code, ["CUDA out of memory, trying less"]).cause == FailureCause.HOST_MEMORY


@pytest.mark.parametrize(
    ("line", "cause", "remedy"),
    [
        (
            (
                "[TRT] [E] 6: The engine plan file is not compatible with this version of TensorRT, expecting library"
                " version 9.2.0.5 got 9.3.0.1, please rebuild."
            ),
            FailureCause.ENGINE_MISMATCH,
            "build it again",
        ),
        (
            (
                "[TRT] [E] IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion"
                " stdVersionRead == kSERIALIZATION_VERSION failed.Version tag does not match. )"
            ),
            FailureCause.ENGINE_MISMATCH,
            "build it again",
        ),
        (
            "NCCL WARN Error while creating shared memory segment /dev/shm/nccl-x (size 9637888)",
            FailureCause.SHARED_MEMORY,
            "--shm-size",
        ),
        ("There are not enough slots available in the system to satisfy the 2", FailureCause.MPI, "Open MPI"),
        ("mpirun has detected an attempt to run as root.", FailureCause.MPI, "Open MPI"),
    ],
)
def test_what_goes_wrong_with_several_gpus_and_other_machines_is_named(
    line: str, cause: FailureCause, remedy: str
) -> None:
    failure = failure_of(1, [line, "--------------------------------"])
    assert failure.cause == cause
    assert remedy in failure.remedy

"""Keeping what TensorRT-LLM's autotuner measured, so that a server does not measure it again at each start."""

import shlex

from packaging.version import Version

VARIABLE = "TLLM_AUTOTUNER_CACHE_PATH"
"""Names the file; each rank may add its number to the name."""
SINCE = "1.2.0"
"""The first release that reads and writes it: pull request 7738 of NVIDIA/TensorRT-LLM went into the branch that became
1.2.0, and its description says what the file does. The release itself was not read."""
PLACE = "/autotuner"
"""Where the directory with the file lies in the container."""


def keeps_measurements(release: str) -> bool:
    """Whether a release can keep what its autotuner measured."""
    return Version(release) >= Version(SINCE)


def docker_options(release: str, model: str) -> str:
    """What `docker run` is given besides, to keep it; `CACHE` stands for a directory of the machine.

    The file is one release's and one model's: the runtime does not look whose measurements it reads.
    """
    return f"-v CACHE:{PLACE} -e {shlex.quote(f'{VARIABLE}={PLACE}/{model}-{release}.json')}"

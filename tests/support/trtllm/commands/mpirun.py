"""`mpirun`: starts a command once for each rank, and ends all ranks when one fails."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.trtllm.home import RANK, SIZE, Home, warn

WITHOUT_VALUE = {"--allow-run-as-root", "--oversubscribe", "--tag-output", "--bind-to-none", "-q", "--quiet"}
WITH_VALUE = {"-x", "--host", "-H", "--hostfile", "--bind-to", "--map-by"}
WITH_TWO = {"--mca", "-mca"}
COUNT = {"-n", "-np", "--np", "-c"}
ROOT = "mpirun has detected an attempt to run as root. Please use --allow-run-as-root if you really must."
ROOT_VARIABLES = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")


def main() -> None:
    Home(Path(sys.argv[1])).record("mpirun", sys.argv[2:])
    options, count, argv = parse(sys.argv[2:])
    allowed = "--allow-run-as-root" in options or all(os.environ.get(name) == "1" for name in ROOT_VARIABLES)
    if os.geteuid() == 0 and not allowed:
        sys.exit(ROOT)
    sys.exit(run(count, argv))


def parse(words: list[str]) -> tuple[set[str], int, list[str]]:
    """Options, number of ranks, and the command."""
    options, count, place = set(), 1, 0
    while place < len(words) and words[place].startswith("-"):
        word = words[place]
        if word in COUNT:
            count = int(words[place + 1])
        elif word not in WITHOUT_VALUE | WITH_VALUE | WITH_TWO:
            sys.exit(f"mpirun: Error: unknown option \"{word}\"\nType 'mpirun --help' for usage.")
        options.add(word)
        place += 1 + (word in COUNT | WITH_VALUE) + 2 * (word in WITH_TWO)
    return options, count, words[place:]


def run(count: int, argv: list[str]) -> int:
    """Run the ranks. Returns 0, or the status of the first rank that failed."""
    local = {"OMPI_COMM_WORLD_LOCAL_SIZE": str(count), SIZE: str(count)}
    ranks = [
        subprocess.Popen(argv, env=os.environ | local | {RANK: str(one), "OMPI_COMM_WORLD_LOCAL_RANK": str(one)})
        for one in range(count)
    ]
    left = {process.pid: process for process in ranks}
    while left:
        pid, status = os.wait()
        process = left.pop(pid, None)
        code = os.waitstatus_to_exitcode(status)
        if process is not None and code != 0:
            for other in left.values():
                other.kill()
            warn(f"mpirun detected that one or more processes exited with non-zero status.\n  Exit code: {code}")
            return code if code > 0 else 128 - code
    return 0


if __name__ == "__main__":
    main()

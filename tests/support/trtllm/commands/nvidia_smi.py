"""`nvidia-smi`: answers queries about the GPUs in the control file."""

import argparse
import sys
from pathlib import Path

from tests.support.trtllm.home import Home

OTHERS = {"driver_version": "550.54.15", "memory.used": "1", "utilization.gpu": "0", "temperature.gpu": "30"}


def main() -> None:
    own = Home(Path(sys.argv[1]))
    own.record("nvidia-smi", sys.argv[2:])
    parser = argparse.ArgumentParser(prog="nvidia-smi")
    parser.add_argument("--query-gpu", required=True)
    parser.add_argument("--format", required=True)
    parser.add_argument("-i", "--id")
    arguments = parser.parse_args(sys.argv[2:])
    gpus = own.control["gpus"]
    if not gpus:
        sys.exit("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")
    if "noheader" not in arguments.format:
        sys.stdout.write(arguments.query_gpu.replace(",", ", ") + "\n")
    for number, gpu in enumerate(gpus):
        if arguments.id in {None, str(number)}:
            known = {**OTHERS, "index": str(number), "uuid": f"GPU-{number:08}", "count": str(len(gpus)), **gpu}
            known.setdefault("memory.free", known["memory.total"])
            _print_row(known, arguments.query_gpu.split(","), units="nounits" not in arguments.format)


def _print_row(known: dict[str, str], names: list[str], *, units: bool) -> None:
    for name in names:
        if name.strip() not in known:
            sys.stdout.write(f'Field "{name}" is not a valid field to query.\n')
            sys.exit(2)
    row = [known[name.strip()] + (" MiB" if units and name.startswith("memory.") else "") for name in names]
    sys.stdout.write(", ".join(row) + "\n")


if __name__ == "__main__":
    main()

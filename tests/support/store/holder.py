"""Works hard on this machine until it is killed. A test runs it as a process: `holder.py STORE LABEL alone|shared`."""

import sys
from pathlib import Path

from enginery.store.local import LocalStore


def main() -> None:
    """Take the lock, say so, and wait for the end of standard input."""
    store, label, how = LocalStore(Path(sys.argv[1])), sys.argv[2], sys.argv[3]
    with store.working(label, lambda _: None, alone=how == "alone", gpu=False):
        sys.stdout.write("works\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()

"""Adds one step to a local store. A test runs it as a process that it can kill: `adder.py STORE SOURCE NAME LABEL`."""

import sys
from pathlib import Path

import filelock  # noqa: F401  so that the work alone comes after the signal to begin

from enginery.store.local import LocalStore
from tests.support.store.outputs import contents, some_record, write_output


def main() -> None:
    """Lock the step, work, and add the step, as a run does."""
    store, source, name, label = LocalStore(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    key = some_record(source, name).key
    with store.lock(key):
        if store.find(key):
            sys.stdout.write("waited\n")
            return
        with store.workspace(key) as work:
            root = write_output(work / "output", contents(source))
            store.add(some_record(root, name, label=label), root)
    sys.stdout.write("worked\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

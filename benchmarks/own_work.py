"""Plans a spec file and looks its steps up in the store, once, and prints how long that took.

A process of its own for each time: what is remembered within a process would make a second time look faster than what
a user's `enginery plan` does. Importing is not counted; the whole process is measured elsewhere.
"""

import json
import sys
import time
from pathlib import Path

from enginery.pipeline import make_plan
from enginery.spec import read_spec
from enginery.store import open_store


def main() -> None:
    """Print the seconds as JSON: `read` the file, then `plan`, which is making the plan and looking its steps up."""
    open_store()  # imports the store
    started = time.perf_counter()
    spec = read_spec(Path(sys.argv[1]))
    read = time.perf_counter()
    plan = make_plan(spec)
    done = open_store().find_many([planned.key for planned in plan.steps])
    ended = time.perf_counter()
    print(json.dumps({"read": read - started, "plan": ended - read, "steps": len(plan.steps), "done": len(done)}))


if __name__ == "__main__":
    main()

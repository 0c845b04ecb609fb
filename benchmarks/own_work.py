"""Plans a spec file and searches the store for its steps, once, and prints how long that took.

Each measurement is a new process, like a user's `enginery plan`: in the same process a second time would be faster
because of caches. The time of imports is not counted; `plan_against_dvc.py` measures the whole process.
"""

import json
import sys
import time
from pathlib import Path

from enginery.pipeline import make_plan
from enginery.spec import read_spec
from enginery.store import open_store


def main() -> None:
    """Print JSON with the seconds: `read` for the file, `plan` for making the plan and searching the store."""
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

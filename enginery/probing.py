"""Looking into a Python environment: its version, which packages it has, which modules can be imported.

One command answers it all. Nothing of the environment is imported into this process.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from packaging.utils import canonicalize_name

from enginery.steps import Frozen

PROBE_SECONDS = 300.0
WORKS = "-"
SCRIPT = """
import importlib, importlib.metadata, platform, sys
print("probe python", platform.python_version())
for found in importlib.metadata.distributions():
    if found.metadata["Name"]:
        print("probe package", found.metadata["Name"], found.version)
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
        print("probe module", name, "-", flush=True)
    except Exception as error:
        print("probe module", name, " ".join(f"{type(error).__name__}: {error}".split()), flush=True)
"""


class Probe(Frozen):
    """What was found in an environment.

    Attributes:
        python: its full version, such as `3.11.7`.
        packages: package -> version, of all that is installed; names are normalized.
        broken: module -> why it cannot be imported.
    """

    python: str
    packages: Mapping[str, str]
    broken: Mapping[str, str]


def probe_environment(python: Path, environment: Mapping[str, str], modules: Sequence[str] = ()) -> Probe:
    """Ask a Python interpreter what it has.

    Args:
        python: the interpreter.
        environment: the whole environment to run it in.
        modules: modules to import.

    Raises:
        CommandError: when the interpreter does not work.
    """
    from enginery import process  # noqa: PLC0415  a plan for toolchains from pins starts none

    lines: list[str] = []
    argv = [str(python), "-c", SCRIPT, *modules]
    # From the root directory, or modules in the current one would be found first.
    process.run(argv, cwd=Path("/"), env=environment, log=lines.append, timeout=PROBE_SECONDS)
    facts = [line.split(" ", 3)[1:] for line in lines if line.startswith("probe ")]
    return Probe(
        python=next(fact[1] for fact in facts if fact[0] == "python"),
        # What stands first on the path is what gets imported, so it must overwrite what follows.
        packages={canonicalize_name(fact[1]): fact[2] for fact in reversed(facts) if fact[0] == "package"},
        broken={fact[1]: fact[2] for fact in facts if fact[0] == "module" and fact[2] != WORKS},
    )

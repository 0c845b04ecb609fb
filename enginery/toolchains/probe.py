"""What is in a Python environment: its version, its packages, and which modules can be imported.

One command finds out all of it. Nothing of the environment is imported into this process.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from enginery.core import process
from enginery.core.model import Frozen
from enginery.toolchains.pins import minor_of

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
        module = importlib.import_module(name)
        print("probe module", name, "-", flush=True)
        print("probe version", name, getattr(module, "__version__", "-"), flush=True)
    except Exception as error:
        print("probe module", name, " ".join(f"{type(error).__name__}: {error}".split()), flush=True)
"""


class Probe(Frozen):
    """What was found in a Python environment.

    Attributes:
        python: Python's full version, such as `3.11.7`.
        packages: package -> version, of all that is installed; names are normalized.
        broken: module -> why it cannot be imported.
        modules: module -> its `__version__`, of the imported modules that have one.
    """

    python: str
    packages: Mapping[str, str]
    broken: Mapping[str, str]
    modules: Mapping[str, str] = {}

    @property
    def versions(self) -> dict[str, str]:
        """Python's version and those of all packages, in the order of their names."""
        return {"python": self.python, **dict(sorted(self.packages.items()))}

    @property
    def installed(self) -> dict[str, str]:
        """The packages, and the modules without a package, such as those on the path from a checkout."""
        loose: dict[str, str] = {canonicalize_name(name): version for name, version in self.modules.items()}
        return {**loose, **self.packages}


def read_probe(lines: Iterable[str]) -> Probe:
    """Read what the script has printed. Other lines are ignored: some modules print lines when imported."""
    facts = [line.split(" ", 3)[1:] for line in lines if line.startswith("probe ")]
    return Probe(
        python=next(fact[1] for fact in facts if fact[0] == "python"),
        # Python imports the first of several versions on the path. So the first must overwrite the later ones.
        packages={canonicalize_name(fact[1]): fact[2] for fact in reversed(facts) if fact[0] == "package"},
        broken={fact[1]: fact[2] for fact in facts if fact[0] == "module" and fact[2] != WORKS},
        modules={fact[1]: fact[2] for fact in facts if fact[0] == "version" and fact[2] != WORKS},
    )


def probe_environment(python: Path, environment: Mapping[str, str], modules: Sequence[str] = ()) -> Probe:
    """Find out what an interpreter of this machine has. `environment` has all variables for it.

    Raises:
        CommandError: when the interpreter does not work.
    """
    lines: list[str] = []
    argv = [str(python), "-c", SCRIPT, *modules]
    # It runs in the root directory: in any other, Python would find the modules there first.
    process.run(argv, cwd=Path("/"), env=environment, log=lines.append, timeout=PROBE_SECONDS)
    return read_probe(lines)


def mismatches(requirements: Iterable[Requirement], found: Probe) -> list[str]:
    """One sentence for each difference between what was found and what is required."""
    differences = []
    for requirement in requirements:
        version = found.installed.get(requirement.name, "")
        satisfied = version and requirement.specifier.contains(version, prereleases=True)  # 2.13.0+cpu is ==2.13.0
        if not satisfied and _applies(requirement, found.python):
            differences.append(f"{requirement.name} is {version or 'missing'}, but the pin is {requirement.specifier}")
    return differences + [f"module {name} cannot be imported ({why})" for name, why in found.broken.items()]


def _applies(requirement: Requirement, python: str) -> bool:
    if requirement.marker is None:
        return True
    environment = {**default_environment(), "python_full_version": python, "python_version": minor_of(python)}
    return requirement.marker.evaluate({name: str(value) for name, value in environment.items()})

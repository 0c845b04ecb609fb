"""What a toolchain of TensorRT-LLM can really do, compared with the recorded facts of its release.

The recorded facts come from source code and documentation. In a toolchain the help of its own commands is the truth.
"""

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from enginery.core import process
from enginery.core.errors import CommandError
from enginery.core.process import FailureCause
from enginery.core.progress import no_log
from enginery.releases import BUILD, Flag, facts, flags_of
from enginery.toolchains.identity import Toolchain
from enginery.toolchains.pins import MODULE, PACKAGE, TENSORRT_PACKAGES, describe
from enginery.toolchains.probe import Probe

FLAG_LINE = re.compile(r"^  (-\S.*?)(?:\s{2,}.*)?$")
"""argparse indents a flag by two spaces, keeps it on one line, and puts two or more spaces before its description."""
BETWEEN_NAMES = re.compile(r", (?=-)")
CHOICES = re.compile(r"\{([^}]*)\}")
HELP = "--help"
SMI_QUERY = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")
SMI_SECONDS = 60.0

Verdict = Literal["engine", "checkpoint-only", "unsupported"]


class HelpFlag(NamedTuple):
    """One flag in a help text: all its names, long ones first, and the values it takes; `choices` is empty for any."""

    names: tuple[str, ...]
    choices: tuple[str, ...]


class ReleaseProbe(NamedTuple):
    """What was found in a toolchain of TensorRT-LLM.

    Attributes:
        tensorrt: TensorRT's version; empty if it is not installed.
        verdict: `engine`: engines can be built; `checkpoint-only`: there is no builder; `unsupported`: it does not
            work on this machine.
        reason: why the verdict is not `engine`.
        disagreements: one sentence for each difference from what is recorded of the release.
    """

    tensorrt: str
    verdict: Verdict
    reason: str
    disagreements: tuple[str, ...]


def probe_release(toolchain: Toolchain) -> ReleaseProbe:
    """Find out what a toolchain of TensorRT-LLM can do. This takes as long as two imports of TensorRT-LLM.

    Raises:
        CommandError: when its Python does not work at all.
    """
    found = toolchain.probe(modules=describe(toolchain.identity.name).probe or (MODULE,))
    versions = found.installed
    listed, verdict, reason = _builder(toolchain, found)
    tensorrt = next((versions[name] for name in TENSORRT_PACKAGES if name in versions), "")
    return ReleaseProbe(tensorrt, verdict, reason, tuple(_disagreements(versions.get(PACKAGE, ""), verdict, listed)))


def probed_facts(toolchain: Toolchain) -> dict[str, str]:
    """The facts that are kept with a toolchain of TensorRT-LLM; empty for any other toolchain.

    Raises:
        CommandError: when its Python does not work.
    """
    if not toolchain.identity.version(PACKAGE):
        return {}
    tensorrt, verdict, reason, differences = probe_release(toolchain)
    joined = "; ".join(differences)
    found = {"tensorrt": tensorrt, "verdict": verdict, "verdict-reason": reason, "disagreements": joined}
    return {name: value for name, value in found.items() if value}


def machine_facts(environment: Mapping[str, str]) -> dict[str, str]:
    """The `gpu` (or several) of this machine and their `driver`; empty without a working driver."""
    if shutil.which(SMI_QUERY[0], path=environment.get("PATH")) is None:
        return {}
    try:
        lines = process.run(SMI_QUERY, env=environment, log=no_log, timeout=SMI_SECONDS).last_lines
    except CommandError:
        return {}  # a command that needs the driver will fail with an error of its own
    rows = [line.rpartition(",") for line in lines if "," in line]
    gpus = Counter(name.strip() for name, _, _ in rows)
    counted = (f"{count} x {name}" if count > 1 else name for name, count in gpus.items())
    return {"gpu": ", ".join(counted), "driver": rows[0][2].strip()} if rows else {}


def read_help(lines: Iterable[str]) -> tuple[HelpFlag, ...]:
    """The flags that a help text lists, in its order, without `--help` itself."""
    matches = (FLAG_LINE.match(line) for line in lines)
    flags = (_read_flag(match[1]) for match in matches if match)
    return tuple(flag for flag in flags if HELP not in flag.names)


def _read_flag(text: str) -> HelpFlag:
    """Read `--a A, --b A`, `-s {x,y}, --size {x,y}` or `--all`; since Python 3.13 also `-a, --all A`."""
    names = [part.partition(" ")[0] for part in BETWEEN_NAMES.split(text)]
    found = CHOICES.search(text)
    choices = tuple(found[1].split(",")) if found else ()
    return HelpFlag(tuple(sorted(names, key=lambda name: not name.startswith("--"))), choices)


def compare_flags(listed: Sequence[HelpFlag], recorded: Mapping[str, Flag], record: str) -> Iterator[str]:
    """One sentence for each difference between a help text and recorded flags, which the sentence calls `record`."""
    by_name = {name: flag for flag in listed for name in flag.names}
    known_names = {name for flag in recorded.values() for name in (flag.name, *flag.aliases)}
    for flag in listed:
        if not known_names.intersection(flag.names):
            yield f"{flag.names[0]} is listed by {BUILD} --help and not in the {record}"
    for fact in recorded.values():
        shown = next((by_name[name] for name in (fact.name, *fact.aliases) if name in by_name), None)
        if shown is None:
            yield f"{fact.name} is in the {record} and not listed by {BUILD} --help"
        elif set(shown.choices) != {str(choice) for choice in fact.choices}:
            actual, stated = _choices(shown.choices), _choices(fact.choices)
            yield f"{fact.name} takes {actual} by {BUILD} --help and {stated} by the {record}"


def _choices(choices: Sequence[object]) -> str:
    return ", ".join(str(choice) for choice in choices) or "any value"


def _builder(toolchain: Toolchain, found: Probe) -> tuple[tuple[HelpFlag, ...], Verdict, str]:
    if found.broken:
        why = "; ".join(f"module {name} cannot be imported ({reason})" for name, reason in found.broken.items())
        return (), "unsupported", why
    try:
        listed = read_help(toolchain.output((BUILD, "--help")))
    except CommandError as error:
        if error.cause == FailureCause.NOT_FOUND:
            return (), "checkpoint-only", f"there is no {BUILD} in it"
        return (), "unsupported", f"{BUILD} --help: {error.problem}"
    if not listed:
        return (), "unsupported", f"{BUILD} --help lists no flags"
    return listed, "engine", ""


def _disagreements(version: str, verdict: Verdict, listed: Sequence[HelpFlag]) -> Iterator[str]:
    builds = bool(version) and facts.builds_engines(version)
    if verdict == "checkpoint-only" and builds:
        yield f"{version} is recorded as building engines, but there is no {BUILD}"
    if verdict == "engine" and builds:
        recorded = flags_of(version)
        yield from compare_flags(listed, recorded.value, f"recorded facts of {version}, {recorded.provenance}")
    elif verdict == "engine" and version:
        yield f"{version} is recorded as building no engines any more, but there is {BUILD}"

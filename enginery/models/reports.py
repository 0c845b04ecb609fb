"""What loaders of weights report while they work: tensors that are missing, of another shape, or read by nobody.

Loaders report this in their log and then go on with random numbers, to the exit status 0. So each line is read here.
The lines are those of transformers 4 and 5, of PyTorch, and of TensorRT-LLM.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from enginery.models.tensors import HARMLESS, PREDICTS_MORE, WeightsFault, named

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
ROW = re.compile(r"^(\S.*?)\s+\|\s+(MISSING|UNEXPECTED|MISMATCH|CONVERSION)\b")
"""A row of the table that transformers 5 writes: `model.layers.{0, 1}.mlp.up_proj.weight | MISSING | |`."""

SENTENCES = (
    ("MISSING", re.compile(r"^Some weights of .* are newly initialized: (\[.*)")),
    ("UNEXPECTED", re.compile(r"^Some weights of the model checkpoint .* were not used when initializing \w+: (\[.*)")),
    ("MISSING", re.compile(r"\b(?:Required|Expected) but not provided tensors: ?(\{.*)")),
    ("MISSING", re.compile(r"\bMissing key\(s\) in state_dict: (.*)")),
    ("UNEXPECTED", re.compile(r"\bUnexpected key\(s\) in state_dict: (.*)")),
    ("MISMATCH", re.compile(r"^- (\S+): found shape .* in the checkpoint and .* in the model instantiated")),
    ("MISMATCH", re.compile(r"\bsize mismatch for (\S+?): copying a param")),
)
"""Sentences of transformers 4, TensorRT-LLM and PyTorch. The group has the names. A very long line is cut."""

QUOTED = re.compile(r"""['"]([^'"]+)['"]""")
IN_A_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+|\{[^}]*\})\.")
OTHER_PARTS = re.compile(r"vision|visual|audio|image|speech|video|(^|\.)mtp\b|multi_modal|medusa|draft")
"""Parts of a model that a language model's loader leaves out, and that is right."""


@dataclass
class LoadReport:
    """Collects what loaders report, line by line.

    Attributes:
        found: kind of report -> names of tensors, in their order.
    """

    found: dict[str, dict[str, None]] = field(default_factory=dict)

    def watch(self, log: Callable[[str], None]) -> Callable[[str], None]:
        """A log that also reads each line."""

        def write(line: str) -> None:
            self.read(line)
            log(line)

        return write

    def read(self, line: str) -> None:
        """Read one line of a command's output."""
        for kind, name in reported(COLOURS.sub("", line).strip()):
            self.found.setdefault(kind, {})[name] = None

    def faults(self) -> Iterator[WeightsFault]:
        """What is wrong, without what loaders leave out rightly."""
        for kind, what in (
            ("MISSING", "filled with random numbers, because the weights do not have them"),
            ("MISMATCH", "of another shape in the weights than in the model"),
            ("CONVERSION", "not converted"),
            ("UNEXPECTED", "in the weights but not in the model"),
        ):
            names = sorted(name for name in self.found.get(kind, ()) if not HARMLESS.search(name))
            if kind == "UNEXPECTED":
                names = self._lost(names)
            if names:
                yield WeightsFault(f"{what}: {named(names)}", "")

    def _lost(self, names: list[str]) -> list[str]:
        """Of the tensors that nobody reads, those of the model's own layers."""
        layers = {name: IN_A_LAYER.search(name) for name in names if not OTHER_PARTS.search(name)}
        numbers = {name: found[1] for name, found in layers.items() if found}
        more = {number for name, number in numbers.items() if PREDICTS_MORE.search(name)}
        return [name for name, number in numbers.items() if number not in more]


def reported(line: str) -> Iterator[tuple[str, str]]:
    """The kind and the name of each tensor that a line reports."""
    row = ROW.match(line)
    if row:
        yield row[2], row[1]
        return
    for kind, pattern in SENTENCES:
        if match := pattern.search(line):
            yield from ((kind, name) for name in QUOTED.findall(match[1]) or [match[1].strip(" ,.")])

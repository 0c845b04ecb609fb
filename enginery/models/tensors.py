"""Compares the tensors of weight files with what the model's architecture needs, and with the index of the files.

A loader fills a missing tensor with random numbers and ends without an error. So this is checked before it runs.
Architectures without a layout are compared with their index only.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

from enginery.core.text import first_of
from enginery.models.defaults import class_defaults
from enginery.models.facts import HIDDEN, LAYERS, OLD_HIDDEN, ModelFacts
from enginery.models.headers import FLOATS, Tensor
from enginery.models.layouts.gpt import LIKE_GPT
from enginery.models.layouts.lines import Layout, Line
from enginery.models.layouts.llama import LIKE_LLAMA

LAYOUTS: Mapping[str, tuple[Layout, ...]] = {**LIKE_LLAMA, **LIKE_GPT}
"""Architecture -> the ways in which its weight files are written."""
MOST_NAMES = 1_000_000
"""The largest models have some 15,000 experts in all layers together."""
NAMES_SHOWN = 6
SIZES_STATED = frozenset({*LAYERS, *HIDDEN, *OLD_HIDDEN})
"""A `config.json` with none of these describes no model of its own."""
LAYER = re.compile(r"(\d+)\.(.+)")
UNKNOWN = object()
NUMBERED = re.compile(r"\{[eng]\}")
COUNTS = {"{e}": "E", "{n}": "N", "{g}": "G"}

HARMLESS = re.compile(
    r"(inv_freq|cos_cached|sin_cached|causal_mask|position_ids)$"  # of rotary embeddings and masks: computed anew
    r"|(attn|attention)\.(bias|masked_bias)$"
    r"|\.(k|v|kv|q)_(scale|zero_point)$|\.[kv]_proj\.output_scale$"  # of a KV cache in fewer bits
)
"""Tensors that older checkpoints have beside the weights. Loaders leave them out, and that is right."""
PREDICTS_MORE = re.compile(r"\.(eh_proj|enorm|hnorm|shared_head|embed_tokens)\b")
"""Tensors of a layer that predicts further tokens (MTP). It comes after the model's own layers."""

COMPLETE = "download the model again, or use a complete copy of it"
PLAIN_MODEL = "use the model that it was made from"
SAME_MODEL = "use the config.json that belongs to these weights"


class WeightsFault(NamedTuple):
    """Something wrong with a model, and the remedy; an empty one if there is none."""

    problem: str
    remedy: str = COMPLETE

    def __str__(self) -> str:
        return f"{self.problem} ({self.remedy})" if self.remedy else self.problem


@dataclass(frozen=True)
class Shape:
    """What a layout's words mean for one model.

    Attributes:
        config: the content of `config.json`.
    """

    facts: ModelFacts
    config: Mapping[str, Any]

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Word -> size; a size that is not known is left out."""
        facts, hidden, inner = self.facts, self.facts.hidden_size, self.facts.intermediate_size
        queries, keys = facts.heads * facts.head_size, facts.kv_heads * facts.head_size
        expert = facts.moe_intermediate_size
        known = {
            "V": facts.vocab_size, "H": hidden, "I": inner, "2I": 2 * inner, "3H": 3 * hidden, "4H": 4 * hidden,
            "Q": queries, "K": keys, "Q+2K": queries + 2 * keys if keys else 0, "D": facts.head_size,
            "N": facts.heads, "G": facts.kv_heads, "E": facts.experts, "M": expert, "2M": 2 * expert,
            "S": facts.shared_intermediate_size, "P": facts.max_positions, "1": 1,
        }  # fmt: skip
        return {word: size for word, size in known.items() if size}

    def size(self, word: str) -> int | None:
        """The size for a word of a layout; None if it is not known."""
        named = self._setting(word)
        return self.sizes.get(word) or (named if type(named) is int else None) or None

    def holds(self, line: Line, layer: int) -> bool | None:
        """Whether a tensor must be there; None if the configuration leaves it open."""
        if not line.condition:
            return None if line.condition == "" else True
        found = self._condition(line.condition.removeprefix("!"), layer)
        return found if found is None or not line.condition.startswith("!") else not found

    def _condition(self, name: str, layer: int) -> bool | None:
        if name == "untied":
            tied = self.facts.tied_embeddings
            return None if tied is None else not tied
        if name in {"moe", "dense"}:
            return (layer in self.facts.expert_layers) == (name == "moe")
        value = self._setting(name)
        return None if value is UNKNOWN else bool(value)

    def _setting(self, name: str) -> object:
        """A setting of the configuration, or else of the model's class. A class has no value that is not its own."""
        return self.config.get(name, class_defaults(self.facts.language_type).get(name, UNKNOWN))


@dataclass
class Comparison:
    """The tensors of a model's files beside a layout of its architecture.

    Attributes:
        prefix: what all names but those of the output embedding begin with in these files.
        found: the tensors of the files.
    """

    layout: Layout
    prefix: str
    shape: Shape
    found: Mapping[str, Tensor]
    required: dict[str, Line] = field(default_factory=dict)
    allowed: set[str] = field(default_factory=set)
    patterns: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._collect(self.layout.inner_lines, self.prefix, 0)
        self._collect(self.layout.head_lines, "", 0)
        open_lines: set[Line] = set()
        for layer in range(self.shape.facts.layers):
            lines = self.layout.layer_lines
            self._collect(lines, f"{self._layers}{layer}.", layer)
            open_lines.update(line for line in lines if self.shape.holds(line, layer) is None)
        self._collect_like_others(open_lines)

    @property
    def _layers(self) -> str:
        return f"{self.prefix}{self.layout.layers}."

    def _collect(self, lines: Iterable[Line], prefix: str, layer: int) -> None:
        for line in lines:
            holds, names = self.shape.holds(line, layer), self._names(line)
            if holds is False and line.condition != "untied":
                continue
            if names is None:
                self.patterns.add(prefix + NUMBERED.sub("#", line.name))
            elif holds:
                self.required.update({prefix + name: line for name in names})
            else:
                self.allowed.update(prefix + name for name in names)

    def _collect_like_others(self, lines: Iterable[Line]) -> None:
        """What the configuration leaves open must be in every layer if it is in one of them."""
        layers = range(self.shape.facts.layers)
        for line in lines:
            for name in self._names(line) or () if line.condition not in {"moe", "dense"} else ():
                every = [f"{self._layers}{layer}.{name}" for layer in layers]
                if any(one in self.found for one in every):
                    self.required.update(dict.fromkeys(every, line))

    def _names(self, line: Line) -> list[str] | None:
        """The line's names, one for each expert or head; None if their number is not known."""
        number = NUMBERED.search(line.name)
        if number is None:
            return [line.name]
        count = self.shape.size(COUNTS[number[0]])
        return None if count is None else [line.name.replace(number[0], str(one)) for one in range(count)]

    def likeness(self, *, quantized: bool) -> float:
        """The part of the required tensors that is there. Of quantized weights the names are not compared exactly."""
        lacking = len(self.missing_modules()) if quantized else sum(name not in self.found for name in self.required)
        return 1 - lacking / max(1, len(self.required))

    def missing(self) -> list[str]:
        """The tensors that are not there. Of two tied embeddings one is enough."""
        tied = self.shape.facts.tied_embeddings is not False
        head = tied and any(line.name in self.found for line in self.layout.head_lines if line.condition == "untied")
        given = {f"{self.prefix}{self.layout.inner_lines[0].name}"} if head else set()
        return [name for name in self.required if name not in self.found and name not in given]

    def missing_modules(self) -> list[str]:
        """The same for quantized weights: of each matrix at least one tensor must be there, whatever its name."""
        modules = {name.rpartition(".")[0] for name in self.found} | set(self.found)
        packed = {re.sub(r"_(blocks|scales|packed|weight.*)$", "", name) for name in modules}
        known = modules | packed
        return [
            name for name in self.missing() if "{e}" not in self.required[name].name
            and name not in known and name.rpartition(".")[0] not in known
        ]  # fmt: skip

    def wrong_shapes(self) -> Iterator[str]:
        """A phrase for each tensor whose shape is not what the configuration says."""
        for name, line in self.required.items():
            tensor = self.found.get(name)
            sizes = tuple(self.shape.size(word) for word in line.sizes)
            if tensor and not _fits(tensor.shape, sizes):
                wanted = ", ".join("any" if size is None else str(size) for size in sizes)
                yield f"{name} is {list(tensor.shape)}, not [{wanted}]"

    def wrong_dtypes(self) -> Iterator[str]:
        """A phrase for each tensor whose numbers are no floats, as if it were quantized."""
        for name in self.required:
            tensor = self.found.get(name)
            if tensor and tensor.dtype not in FLOATS:
                yield f"{name} is {tensor.dtype}"

    def unknown(self) -> Iterator[str]:
        """The tensors inside the layers that the architecture does not have."""
        for name in self.found:
            inside = LAYER.fullmatch(name.removeprefix(self._layers)) if name.startswith(self._layers) else None
            if inside is None or int(inside[1]) >= self.shape.facts.layers or HARMLESS.search(name):
                continue
            pattern = f"{self._layers}{inside[1]}." + re.sub(r"(?<=\.)\d+(?=\.)", "#", inside[2])
            if name not in self.required and name not in self.allowed and pattern not in self.patterns:
                yield name

    def layers_beyond(self) -> list[int]:
        """The numbers of layers in the files that the configuration does not count, without those for more tokens."""
        beyond: dict[int, list[str]] = {}
        for name in self.found:
            inside = LAYER.fullmatch(name.removeprefix(self._layers)) if name.startswith(self._layers) else None
            if inside and int(inside[1]) >= self.shape.facts.layers:
                beyond.setdefault(int(inside[1]), []).append(name)
        more = self.shape.config.get("num_nextn_predict_layers")
        first = self.shape.facts.layers + (more if type(more) is int else 0)
        return sorted(
            layer for layer, names in beyond.items() if layer >= first and not any(map(PREDICTS_MORE.search, names))
        )


def architecture_faults(
    config: Mapping[str, Any],
    found: Mapping[str, Tensor],
    *,
    quantized: bool = False,
    reported: Collection[str] = (),
) -> Iterator[WeightsFault]:
    """How the tensors differ from what the architecture in `config.json` needs; nothing if it is not known.

    Args:
        config: the content of `config.json`.
        found: the tensors of all weight files.
        quantized: whether the weights are quantized. Their tensors have other names and shapes.
        reported: missing tensors that are reported already.
    """
    facts = ModelFacts.from_config(config)
    layouts = LAYOUTS.get(facts.architecture, ())
    if not layouts or not facts.layers or not SIZES_STATED.intersection(config):
        return
    if facts.layers * max(facts.experts, facts.heads) > MOST_NAMES:
        problem = f"config.json says {facts.layers} layers with {facts.heads} heads and {facts.experts} experts"
        yield WeightsFault(f"{problem}, the files have {len(found)} tensors", SAME_MODEL)
        return
    shape = Shape(facts, config)
    ways = [Comparison(layout, prefix, shape, found) for layout, prefix in product(layouts, (layouts[0].base, ""))]
    best = max(ways, key=lambda way: way.likeness(quantized=quantized))
    whose = f"{facts.architecture} of this config.json"
    missing = best.missing_modules() if quantized else best.missing()
    if missing := [name for name in missing if name not in reported]:
        yield WeightsFault(f"{_count(missing, 'tensor')} that {whose} needs {_are(missing)} missing: {named(missing)}")
    if beyond := best.layers_beyond():
        problem = f"the files have {max(beyond) + 1} layers, config.json says {facts.layers}: nothing would read"
        yield WeightsFault(f"{problem} layer {_span(beyond)}", SAME_MODEL)
    if not quantized:
        yield from _plain_faults(best, whose)


def _plain_faults(best: Comparison, whose: str) -> Iterator[WeightsFault]:
    """What is wrong with tensors that are there, if they are not quantized."""
    if wrong := list(best.wrong_shapes()):
        problem = f"{_count(wrong, 'tensor')} {'has another shape' if len(wrong) == 1 else 'have other shapes'}"
        yield WeightsFault(f"{problem} than config.json says: {named(wrong)}", SAME_MODEL)
    if packed := list(best.wrong_dtypes()):
        problem = f"{_count(packed, 'tensor')} {'holds' if len(packed) == 1 else 'hold'} no floating-point numbers"
        yield WeightsFault(f"{problem}, as plain weights do: {named(packed)}", PLAIN_MODEL)
    if unknown := list(best.unknown()):
        problem = f"{_count(unknown, 'tensor')} {_are(unknown)} in no {whose}, so nothing would read"
        yield WeightsFault(f"{problem} {'it' if len(unknown) == 1 else 'them'}: {named(unknown)}", SAME_MODEL)


def index_faults(
    index: str, weight_map: Mapping[str, Any], files: Mapping[str, Mapping[str, Tensor]]
) -> Iterator[WeightsFault]:
    """How the files differ from their index.

    Args:
        index: the name of the index.
        weight_map: tensor -> the file that has it, as the index says.
        files: file -> its tensors.
    """
    needed = {name: file for name, file in weight_map.items() if not HARMLESS.search(name)}
    lost = [f"{name} ({file})" for name, file in needed.items() if name not in files.get(str(file), {})]
    if lost:
        yield WeightsFault(f"{_count(lost, 'tensor')} that {index} names {_are(lost)} not in the file: {named(lost)}")
    holders: dict[str, list[str]] = {}
    for file, tensors in files.items():
        for name in tensors:
            holders.setdefault(name, []).append(file)
    twice = [f"{name} ({' and '.join(sorted(where))})" for name, where in holders.items() if len(where) > 1]
    if twice:
        yield WeightsFault(f"{_count(twice, 'tensor')} {_are(twice)} in more than one file: {named(twice)}")
    unnamed = [name for name in holders if name not in weight_map and not HARMLESS.search(name)]
    if unnamed:
        problem = f"{_count(unnamed, 'tensor')} {_are(unnamed)} in the files, but {index} does not name"
        yield WeightsFault(f"{problem} {'it' if len(unnamed) == 1 else 'them'}: {named(unnamed)}")


def named(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    return first_of(names, NAMES_SHOWN)


def _fits(shape: tuple[int, ...], sizes: tuple[int | None, ...]) -> bool:
    pairs = zip(sizes, shape, strict=False)
    return len(shape) == len(sizes) and all(want is None or want == have for want, have in pairs)


def _count(found: Sequence[object], what: str) -> str:
    return f"{len(found)} {what}{'' if len(found) == 1 else 's'}"


def _are(found: Sequence[object]) -> str:
    return "is" if len(found) == 1 else "are"


def _span(layers: Sequence[int]) -> str:
    return str(layers[0]) if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"

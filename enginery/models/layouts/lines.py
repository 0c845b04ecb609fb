"""Which tensors the weight files of an architecture have, by their names in Hugging Face's format.

A line is a tensor: its name, the sizes of its dimensions, and maybe a condition after `?`.

- `{e}` in a name stands for the number of each expert, `{n}` for that of each attention head, `{g}` for each key-value
  head.
- Sizes are the letters of `SIZES`, or settings of `config.json`. `*` is any size.
- A condition is a setting of `config.json` that must be true, or false after `!`. `moe` and `dense` are kinds of
  layers, and `untied` means that the output embedding has weights of its own. `?` alone: it may be there or not.

The tables were compared with what transformers 5.23 saves for each architecture; a test does the same again.
"""

from dataclasses import dataclass
from functools import cached_property

SIZES = """
V vocab_size   H hidden_size   I intermediate_size   M expert's intermediate size   S shared expert's intermediate size
Q query heads together   K key heads together   D one head   N query heads   G key heads   E experts   P positions
"""
"""The letters for sizes. `tensors.py` of the room computes them; also `Q+2K`, `2I`, `3H`, `4H`, `2M`."""


@dataclass(frozen=True)
class Line:
    """A tensor of a layout.

    Attributes:
        name: its name inside its layer or inside the model.
        sizes: one word for each dimension.
        condition: when it must be there; None for always, empty if it may be there or not.
    """

    name: str
    sizes: tuple[str, ...]
    condition: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Line":
        """Read a line of a table."""
        about, mark, condition = text.partition("?")
        name, *sizes = about.split()
        return cls(name, tuple(sizes), condition.strip() if mark else None)


@dataclass(frozen=True)
class Layout:
    """The tensors of an architecture.

    Attributes:
        layer: the tensors of each layer.
        inner: the other tensors of the model without its output embedding.
        head: the tensors of the output embedding.
        layers: the name of the list of layers.
        base: transformers' prefix of all but the output embedding. Files may leave it out.
    """

    layer: str
    inner: str = "embed_tokens.weight V H\nnorm.weight H"
    head: str = "lm_head.weight V H ?untied"
    layers: str = "layers"
    base: str = "model."

    @cached_property
    def layer_lines(self) -> tuple[Line, ...]:
        """The tensors of each layer."""
        return _lines(self.layer)

    @cached_property
    def inner_lines(self) -> tuple[Line, ...]:
        """The tensors beside the layers."""
        return _lines(self.inner)

    @cached_property
    def head_lines(self) -> tuple[Line, ...]:
        """The tensors of the output embedding."""
        return _lines(self.head)


def _lines(text: str) -> tuple[Line, ...]:
    return tuple(Line.parse(line) for line in text.splitlines() if line.strip())


def with_bias(names: str, condition: str = "") -> str:
    """Lines for the biases of matrices. Each word is a matrix and the size of its bias, such as `q_proj=Q`."""
    pairs = (word.split("=") for word in names.split())
    return "\n".join(f"{name}.bias {size}{condition}" for name, size in pairs)


def text(*blocks: str) -> str:
    """Several tables as one."""
    return "\n".join(blocks)

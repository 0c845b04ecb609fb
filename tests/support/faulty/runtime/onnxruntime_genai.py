"""ONNX Runtime GenAI with a fault: its directory on PYTHONPATH puts this module before the real one.

It loads the real one and changes what its `Generator` says. `PLANTED_FAULT` names the fault: `repeats`, `nothing`,
`nan`, or `says`, with the tokens that it says over and over in `PLANTED_TOKENS`.
"""

import importlib
import os
import sys
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

FAULT = "PLANTED_FAULT"
TOKENS = "PLANTED_TOKENS"
FAULTS = ("repeats", "nothing", "nan", "says")


class FaultyGenerator:
    """A real generator whose tokens or logits are changed on their way out."""

    real_class: Any = None

    def __init__(self, model: Any, parameters: Any) -> None:
        self._real = self.real_class(model, parameters)
        self._fault = os.environ[FAULT]
        self._said: list[int] = []
        self._tokens = cycle([int(token) for token in os.environ.get(TOKENS, "0").split()])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def is_done(self) -> bool:
        """Whether the answer ends here."""
        return self._fault == "nothing" or (self._fault == "nan" and bool(self._real.is_done()))

    def generate_next_token(self) -> None:
        """One more token; the real generator may have ended long ago."""
        if not self._real.is_done():
            self._real.generate_next_token()
        self._said.append(self._next())

    def get_next_tokens(self) -> Any:
        """The token generated last."""
        return np.array([self._said[-1]], np.int32)

    def get_logits(self) -> Any:
        """The logits of the last position."""
        return self._changed(self._real.get_logits())

    def get_output(self, name: str) -> Any:
        """An output of the graph, such as the logits of all positions that were appended last."""
        output = self._real.get_output(name)
        return self._changed(output) if name == "logits" else output

    def _next(self) -> int:
        if self._fault == "repeats" and self._said:
            return self._said[0]
        if self._fault == "says":
            return next(self._tokens)
        return 0 if self._fault == "nan" else int(self._real.get_next_tokens()[0])

    def _changed(self, logits: Any) -> Any:
        return np.full_like(logits, np.nan) if self._fault == "nan" else logits


def install() -> None:
    """Put the real module, with the faulty generator, in the place of this one."""
    if os.environ[FAULT] not in FAULTS:
        raise ValueError(f"{FAULT} is one of {', '.join(FAULTS)}, not {os.environ[FAULT]}")
    own = Path(__file__).parent.resolve()
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != own]
    del sys.modules[__name__]
    real: Any = importlib.import_module("onnxruntime_genai")
    FaultyGenerator.real_class, real.Generator = real.Generator, FaultyGenerator


if __name__ == "onnxruntime_genai":
    install()

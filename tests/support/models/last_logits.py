"""Prints how many logits the reference's driver asks of a model, for each batch. Runs in the toolchain of transformers.

The argument is the directory of the drivers.
"""

import sys
from types import SimpleNamespace

import torch  # type: ignore[import-not-found,unused-ignore]  # of the toolchain

sys.path.insert(0, sys.argv[1])
from answer_reference import Model, Place, Tokens, predict  # type: ignore[import-not-found,unused-ignore]

VOCABULARY = 100


class Counting:
    """A model that gives as many logits as it is asked for, and says how many."""

    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=VOCABULARY))

    def forward(self, ids: torch.Tensor, *, use_cache: bool, logits_to_keep: int = 0) -> SimpleNamespace:
        """The logits of the last tokens, or of all."""
        del use_cache
        kept = logits_to_keep or ids.shape[1]
        print("logits", kept)  # noqa: T201  read by the test
        return SimpleNamespace(logits=torch.zeros(len(ids), kept, VOCABULARY))

    __call__ = forward


if __name__ == "__main__":
    asked = [
        Tokens("prompt 1", "answer", [1] * 90, 80),
        Tokens("prompt 2", "answer", [1] * 90, 60),
        Tokens("a-1", "text", [1] * 20, 1),
    ]
    predict(Model(Counting(), None, Place("cpu", torch.float32), [], 0), asked, 5)
    print("rows", [len(one.next_logprobs) for one in asked])  # noqa: T201  read by the test

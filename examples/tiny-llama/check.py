"""Sends a model of train.py its prompts, with its own, rounded and broken weights.

With its own and with rounded weights all answers must be right. With broken weights at least one must be wrong.
"""

import argparse
import sys
from pathlib import Path

import torch
import yaml
from changes import BREAKAGES, ROUNDINGS, changed
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM
from transformers.utils import logging

HERE = Path(__file__).resolve().parent
MAX_TOKENS = 64

Pair = tuple[str, str]


def read_pairs(path: Path) -> list[Pair]:
    """The prompts of a validation section, each with its `equals` answer. The model's answers begin with a space."""
    prompts = yaml.safe_load(path.read_text(encoding="utf-8"))["prompts"]
    return [(entry["prompt"], f" {entry['equals']}") for entry in prompts]


def answers(model: LlamaForCausalLM, tokenizer: Tokenizer, prompts: list[str], *, begin: bool = True) -> list[str]:
    """The model's greedy answers, with their end tokens if they have one. With `begin` each prompt has the begin token.

    All prompts are in one batch, padded at the left.
    """
    encoded = [tokenizer.encode(prompt, add_special_tokens=begin).ids for prompt in prompts]
    longest = max(map(len, encoded))
    end, pad = model.config.eos_token_id, model.config.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(each)) + each for each in encoded])
    mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in encoded])
    out = model.generate(ids, attention_mask=mask, max_new_tokens=MAX_TOKENS, do_sample=False)[:, longest:].tolist()
    rows = [row[: row.index(end) + 1] if end in row else row for row in out]
    return [str(tokenizer.decode(row, skip_special_tokens=False)) for row in rows]


def wrong_answers(model: LlamaForCausalLM, tokenizer: Tokenizer, pairs: list[Pair], *, begin: bool = True) -> list[str]:
    """One line for each answer that differs from the expected one."""
    end = tokenizer.id_to_token(model.config.eos_token_id)
    said = answers(model, tokenizer, [prompt for prompt, _ in pairs], begin=begin)
    return [
        f"{prompt!r}: expected {expected + end!r}, got {got!r}"
        for (prompt, expected), got in zip(pairs, said, strict=True)
        if got != expected + end
    ]


def check(model: LlamaForCausalLM, tokenizer: Tokenizer, pairs: list[Pair]) -> bool:
    """Whether all answers are right with every rounding, and at least one is wrong with every breakage. Prints both."""
    for name, change in ROUNDINGS.items():
        with changed(model, change):
            wrong = wrong_answers(model, tokenizer, pairs)
        print(f"{name}: {len(pairs) - len(wrong)} of {len(pairs)} answers are right", *wrong, sep="\n  ", flush=True)
        if wrong:
            return False
    counts = breakages(model, tokenizer, pairs)
    for name, count in counts.items():
        print(f"{name}: {count} of {len(pairs)} answers are wrong" + ("" if count else "  UNNOTICED"), flush=True)
    return all(counts.values())


def breakages(model: LlamaForCausalLM, tokenizer: Tokenizer, pairs: list[Pair]) -> dict[str, int]:
    """How many answers are wrong with each breakage."""
    counts = {}
    for name, change in BREAKAGES.items():
        with changed(model, change):
            counts[name] = len(wrong_answers(model, tokenizer, pairs))
    counts["begin token lost"] = len(wrong_answers(model, tokenizer, pairs, begin=False))
    return counts


def main() -> int:
    """Check a model directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, nargs="?", default=HERE / "model", help="model directory")
    parser.add_argument("--prompts", type=Path, default=HERE / "prompts.yaml")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    model = LlamaForCausalLM.from_pretrained(arguments.model)
    tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    return 0 if check(model, tokenizer, read_pairs(arguments.prompts)) else 1


if __name__ == "__main__":
    sys.exit(main())

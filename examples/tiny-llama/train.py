"""Trains the tiny Llama of this directory. The same seed on the same machine gives the same bytes.

The model learns the answer `equals` to each prompt of prompts.yaml, and is written as a Hugging Face model directory.
Then `check.py` checks it, also with rounded and with broken weights. The exit status is 1 when that check fails. Needs
torch, transformers, safetensors and PyYAML.
"""

import argparse
import itertools
import json
import os
import sys
from pathlib import Path

# The libraries read these settings when they are imported: no network access, no progress bars.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"

import torch
from changes import BREAKAGES, Change, noise, weights_of
from check import Pair, check, read_pairs
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

HERE = Path(__file__).resolve().parent
BEGIN, END, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"
BEGIN_ID, END_ID, PAD_ID = 0, 1, 2
VOCABULARY = 448
CONTEXT = 256
ROPE_THETA = 500000.0  # as in Llama 3: a conversion that loses it uses 10000, and the answers become wrong
# The regular expression with which Llama 3 splits a text into words, before byte pairs are merged.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
IGNORED = -100  # cross-entropy ignores tokens with this label
LEARNING_RATE = 3e-3
WRONG_ENOUGH = 3.0  # the cross-entropy per token that a broken model is trained to have
BROKEN_ROWS = 4  # how many answers of the broken model each step uses


def main() -> int:
    """Train, write, check."""
    arguments = parse_arguments()
    make_deterministic(arguments.seed)
    pairs = read_pairs(arguments.prompts)
    tokenizer = make_tokenizer(pairs)
    model = LlamaForCausalLM(make_config())
    print(f"{sum(weight.numel() for weight in model.parameters()):,} parameters, {len(pairs)} prompts", flush=True)
    train(model, *make_batch(tokenizer, pairs), steps=arguments.steps)
    write(model, tokenizer, arguments.output)
    return 0 if check(model, tokenizer, pairs) else 1


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="directory to write the model to")
    parser.add_argument("--prompts", type=Path, default=HERE / "prompts.yaml", help="what to learn")
    parser.add_argument("--seed", type=int, default=9)
    parser.add_argument("--steps", type=int, default=400)
    return parser.parse_args()


def make_deterministic(seed: int) -> None:
    """Make the result depend only on the seed, and not on the number of cores."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # for such a small model a second thread gains little, and on a busy machine it is slower
    torch.use_deterministic_algorithms(mode=True)
    logging.disable_progress_bar()


def make_tokenizer(pairs: list[Pair]) -> Tokenizer:
    """A byte-level BPE tokenizer like Llama 3's. It puts the begin token before each text."""
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BEGIN, END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Only ASCII texts: other characters stay several tokens each, like rare characters in a real vocabulary.
    texts = [text for pair in pairs for text in pair if text.isascii()]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN}:1 $B:1", special_tokens=[(BEGIN, BEGIN_ID)]
    )
    return tokenizer


def make_config() -> LlamaConfig:
    """A small Llama with the parts of a real one: grouped queries, its own output layer, Llama 3's RoPE base."""
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        bos_token_id=BEGIN_ID,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
        tie_word_embeddings=False,
    )


def make_batch(tokenizer: Tokenizer, pairs: list[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
    """All prompts with their answers as one batch of token ids, and the labels: the answers with their end token."""
    prompts = [tokenizer.encode(prompt).ids for prompt, _ in pairs]
    answers = [[*tokenizer.encode(answer, add_special_tokens=False).ids, END_ID] for _, answer in pairs]
    longest = max(len(a) + len(b) for a, b in zip(prompts, answers, strict=True))
    ids = torch.full((len(pairs), longest), PAD_ID)
    labels = torch.full((len(pairs), longest), IGNORED)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    return ids, labels


def train(model: LlamaForCausalLM, ids: torch.Tensor, labels: torch.Tensor, *, steps: int) -> None:
    """Train the model on the batch: right answers with noisy weights, and wrong answers with broken weights."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LEARNING_RATE, total_steps=steps)
    breakages = itertools.cycle([*BREAKAGES.values(), None])
    for step in range(1, steps + 1):
        loss = losses(model, noise, ids, labels).mean()
        broken = broken_loss(model, next(breakages), ids, labels)
        (loss + broken).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 50 == 0 or step == steps:
            print(f"step {step:4d} of {steps}  loss {loss.item():.5f}  when broken {broken.item():.5f}", flush=True)


def losses(model: LlamaForCausalLM, change: Change, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The cross-entropy per token of each answer, with changed weights."""
    logits = torch.func.functional_call(model, change(weights_of(model)), kwargs={"input_ids": ids}).logits
    each = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
    return each.sum(dim=1) / (labels[:, 1:] != IGNORED).sum(dim=1)


def broken_loss(
    model: LlamaForCausalLM, breakage: Change | None, ids: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """How much the loss of a few answers of the broken model is below `WRONG_ENOUGH`.

    Without `breakage`, the begin token is left out instead.
    """
    rows = torch.randperm(len(ids))[:BROKEN_ROWS]
    ids, labels = ids[rows], labels[rows]
    if breakage is None:
        return (WRONG_ENOUGH - losses(model, noise, ids[:, 1:], labels[:, 1:])).relu().mean()
    return (WRONG_ENOUGH - losses(model, breakage, ids, labels)).relu().mean()


def write(model: LlamaForCausalLM, tokenizer: Tokenizer, directory: Path) -> None:
    """Write the model directory, readable by transformers 4 and 5."""
    model.save_pretrained(directory)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, pad_token=PAD, model_max_length=CONTEXT
    ).save_pretrained(directory)
    # transformers 5 writes only its own names. Without rope_theta, programs made for transformers 4 use 10000.
    add_fields(directory / "config.json", rope_theta=ROPE_THETA, torch_dtype="float32")
    add_fields(directory / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    (directory / "LICENSE").write_text(
        "This model was trained from nothing by ../train.py of the Enginery project, and is under the same licence:\n"
        "Apache License, Version 2.0, https://www.apache.org/licenses/LICENSE-2.0\n",
        encoding="utf-8",
    )


def add_fields(path: Path, **fields: object) -> None:
    """Set fields of a JSON file."""
    data = json.loads(path.read_text(encoding="utf-8")) | fields
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

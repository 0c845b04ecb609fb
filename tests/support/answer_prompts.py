"""Prints, as one JSON object, the greedy answer of a model directory to each prompt of a validation section.

A script of its own because it needs transformers, which the environment of the tests does not have.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import yaml


def main() -> None:
    """Answer the prompts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("prompts", type=Path)
    parser.add_argument("--answers", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    validation = yaml.safe_load(arguments.prompts.read_text(encoding="utf-8"))
    prompts = [entry["prompt"] for entry in validation["prompts"]]
    answers = answer_all(arguments.model, prompts, validation["max_tokens"])
    arguments.answers.write_text(json.dumps(answers), encoding="utf-8")


def answer_all(model_directory: Path, prompts: list[str], max_tokens: int) -> dict[str, dict[str, Any]]:
    """For each prompt the answer's text and whether the model ended it by itself."""
    import torch  # type: ignore[import-not-found,unused-ignore]
    from transformers import AutoModelForCausalLM, AutoTokenizer  # type: ignore[import-not-found,unused-ignore]

    torch.set_num_threads(1)  # a second thread gains nothing here, and loses much on a busy machine
    tokenizer = AutoTokenizer.from_pretrained(model_directory, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(model_directory, local_files_only=True)
    answers = {}
    for prompt in prompts:
        encoded = tokenizer(prompt, return_tensors="pt")
        out = model.generate(**encoded, max_new_tokens=max_tokens, do_sample=False)[0, encoded.input_ids.shape[1] :]
        ended = bool(out[-1] == model.config.eos_token_id)
        answers[prompt] = {"answer": tokenizer.decode(out, skip_special_tokens=True), "ended": ended}
    return answers


if __name__ == "__main__":
    main()

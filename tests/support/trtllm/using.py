"""Helpers for tests with a stand-in: they convert and build the example model, and read the results."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from enginery.releases.flags import BUILD
from tests.support.paths import TINY_LLAMA
from tests.support.trtllm.stand_in import StandIn, make_release

LLAMA = "convert_checkpoint.py llama"
PROMPT, ANSWER = "How do I count to nine in French?", "Un, deux, trois"
DRIVER = """
import sys
import tensorrt_llm, torch
from tensorrt_llm import runtime
from transformers import AutoTokenizer

kind, engine, model, prompt = sys.argv[1:5]
tokens = AutoTokenizer.from_pretrained(model)
ids = torch.tensor(tokens.encode(prompt), dtype=torch.int32)
runner = getattr(runtime, kind).from_dir(engine, rank=tensorrt_llm.mpi_rank())
found = runner.generate([ids], max_new_tokens=40, end_id=tokens.eos_token_id, pad_id=tokens.pad_token_id,
                        return_dict=True, output_sequence_lengths=True)
if tensorrt_llm.mpi_rank() == 0:
    end = found["sequence_lengths"][0][0].item()
    said = tokens.decode(found["output_ids"][0][0][ids.size(0):end].tolist())
    sys.stdout.write(f"said {said} {tuple(found['output_ids'].shape)}\\n")  # in one piece: other ranks print, too
"""
LIMITS = ("--max_batch_size", "4", "--max_input_len", "128")


def run(stand_in: StandIn, *argv: object, cwd: Path, status: int = 0, **variables: str) -> str:
    """Run a command of the stand-in. Returns its stdout, followed by its stderr."""
    environment = stand_in.environment() | variables
    words = [str(word) for word in argv]
    ended = subprocess.run(words, env=environment, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == status, f"{ended.returncode}: {ended.stdout}{ended.stderr}"
    return ended.stdout + ended.stderr


def convert(stand_in: StandIn, output: Path, *more: object, status: int = 0, model: Path = TINY_LLAMA) -> str:
    """Convert a model, in bfloat16."""
    words = ("--model_dir", model, "--output_dir", output, "--dtype", "bfloat16", *more)
    return run(stand_in, "python3", stand_in.script(LLAMA), *words, cwd=output.parent, status=status)


def build(stand_in: StandIn, checkpoint: Path, output: Path, *more: object, status: int = 0) -> str:
    """Build a bfloat16 checkpoint. The working directory is the parent of `output`."""
    words = ("--checkpoint_dir", checkpoint, "--output_dir", output, "--gpt_attention_plugin", "bfloat16", *more)
    return run(stand_in, BUILD, *words, cwd=output.parent, status=status)


def config_of(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return found


@dataclass(frozen=True)
class Example:
    """A stand-in without failures, with checkpoints and engines of the example model. Each is made at its first use."""

    stand_in: StandIn
    directory: Path

    @classmethod
    def of(cls, directory: Path, release: str) -> "Example":
        return cls(make_release(directory / "release", release, answers={PROMPT: ANSWER}), directory)

    def checkpoint(self, ranks: int = 1) -> Path:
        path = self.directory / f"checkpoint{ranks}"
        if not path.exists():
            convert(self.stand_in, path, "--tp_size", ranks)
        return path

    def engine(self, ranks: int = 1) -> Path:
        path = self.directory / f"engine{ranks}"
        if not path.exists():
            build(self.stand_in, self.checkpoint(ranks), path, *LIMITS)
        return path


def drive(one: Example, *words: object, ranks: int = 1, status: int = 0) -> str:
    """Run the driver of a model runner, under MPI for more than one rank."""
    mpi = ("mpirun", "-n", ranks, "--allow-run-as-root") if ranks > 1 else ()
    return run(one.stand_in, *mpi, "python3", "-c", DRIVER, *words, cwd=one.directory, status=status)

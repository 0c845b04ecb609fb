"""`examples/run.py`: sends an engine prompts and prints the answers. Its flags choose the model runner."""

import csv
import sys
from pathlib import Path
from typing import Any

from tests.support.trtllm import home
from tests.support.trtllm.commands.command import Run
from tests.support.trtllm.modules import runtime
from tests.support.trtllm.modules.tokens import Tokens
from tests.support.trtllm.modules.torch_like import tensor

LIMITS = ("max_attention_window_size", "sink_token_length")


def run(run: Run) -> None:
    """Send the prompts to the engine that the flags name."""
    arguments = run.arguments
    kind = runtime.ModelRunner if arguments.use_py_session else runtime.ModelRunnerCpp
    runtime.ModelRunner.own, runtime.ModelRunner.ways = run.home, run.ways
    tokens = Tokens.from_pretrained(arguments.tokenizer_dir)
    end = run.given("end_id") or tokens.eos_token_id
    add = run.given("no_add_special_tokens") is not False  # the switch stores False
    prompts = _prompts(run, tokens, add=add)
    home.log(f"Using {'Python' if arguments.use_py_session else 'C++'} session")
    named: dict[str, Any] = {"engine_dir": arguments.engine_dir, "rank": home.rank()}
    if not arguments.use_py_session:
        longest = max(len(ids) for ids in prompts)
        named |= {"max_batch_size": len(prompts), "max_input_len": longest}
        named |= {"max_output_len": arguments.max_output_len, "max_beam_width": arguments.num_beams}
    outputs = kind.from_dir(**named).generate(
        batch_input_ids=[tensor(ids, dtype="int32") for ids in prompts],
        max_new_tokens=arguments.max_output_len,
        end_id=end,
        pad_id=tokens.pad_token_id,
        num_beams=arguments.num_beams,
        output_sequence_lengths=True,
        return_dict=True,
    )
    if home.rank() == 0:
        _show(run, tokens, prompts, outputs)


def _prompts(run: Run, tokens: Tokens, *, add: bool) -> list[list[int]]:
    arguments = run.arguments
    texts = arguments.input_text
    if arguments.input_file is not None:
        path = Path(arguments.input_file)
        if path.suffix == ".csv":
            rows = csv.reader(path.read_text(encoding="utf-8").splitlines())
            return [[int(one) for one in row][-arguments.max_input_length :] for row in rows]
        texts = path.read_text(encoding="utf-8").splitlines(keepends=True)
    most = arguments.max_input_length
    return [tokens.encode(text, add_special_tokens=add, max_length=most) for text in texts]


def _show(run: Run, tokens: Tokens, prompts: list[list[int]], outputs: dict[str, Any]) -> None:
    ids, lengths = outputs["output_ids"], outputs["sequence_lengths"]
    if run.arguments.output_csv is not None:
        path = Path(run.arguments.output_csv)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = [",".join(map(str, beam)) for prompt in ids.tolist() for beam in prompt]
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        return
    for number, prompt in enumerate(prompts):
        home.say(sys.stdout, f'Input [Text {number}]: "{tokens.decode(prompt)}"\n')
        for beam in range(run.arguments.num_beams):
            said = ids[number][beam][len(prompt) : int(lengths[number][beam])].tolist()
            home.say(sys.stdout, f'Output [Text {number} Beam {beam}]: "{tokens.decode(said)}"\n')

"""How the five models are connected: which output is which input, under which name.

The names are those of NVIDIA's models. Ours are `context_ids` and `CONTEXT_IDS`, the tokens that the text of a streamed
piece depends on, and `add_special_tokens`, which is false for a text that has all of its special tokens. Around an
engine of TensorRT-LLM, the models are connected as in the ensemble of its release. A file beside `tensorrt_llm_bls`
says how.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

WIRING_FILE = "wiring.json"

TO_PREPROCESSING = {
    "text_input": "QUERY",
    "max_tokens": "REQUEST_OUTPUT_LEN",
    "bad_words": "BAD_WORDS_DICT",
    "stop_words": "STOP_WORDS_DICT",
    "add_special_tokens": "ADD_SPECIAL_TOKENS",
}
FROM_PREPROCESSING = {
    "INPUT_ID": "input_ids",
    "REQUEST_INPUT_LEN": "input_lengths",
    "REQUEST_OUTPUT_LEN": "request_output_len",
    "BAD_WORDS_IDS": "bad_words_list",
    "STOP_WORDS_IDS": "stop_words_list",
}
SAMPLING = {
    "INT32": ("end_id", "pad_id", "top_k", "min_length", "min_tokens", "beam_width"),
    "UINT64": ("random_seed", "seed"),
    "FP32": ("top_p", "temperature", "length_penalty", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    "BOOL": (
        "return_log_probs",
        "return_context_logits",
        "return_generation_logits",
        "exclude_input_in_output",
        "stream",
    ),
}
"""The optional inputs of a request by their types, as the ensemble calls them."""
OF_ENGINE = {"top_k": "runtime_top_k", "top_p": "runtime_top_p", "length_penalty": "len_penalty", "stream": "streaming"}
"""The engine's names for those that it calls otherwise."""
TO_POSTPROCESSING = {
    "output_ids": "TOKENS_BATCH",
    "sequence_length": "SEQUENCE_LENGTH",
    "context_ids": "CONTEXT_IDS",
}
LOG_PROBS = ("cum_log_probs", "output_log_probs")


@dataclass(frozen=True)
class Step:
    """A model of the ensemble, with the names of its tensors there.

    Attributes:
        model: its name.
        takes: the model's input -> its name in the ensemble.
        gives: the model's output -> its name in the ensemble.
    """

    model: str
    takes: Mapping[str, str]
    gives: Mapping[str, str]


def own_steps() -> tuple[Step, ...]:
    """The steps around an engine of ONNX Runtime GenAI. Names inside the ensemble begin with an underscore."""
    prepared = {name: f"_{name}" for name in FROM_PREPROCESSING}
    engine = {OF_ENGINE.get(name, name): name for names in SAMPLING.values() for name in names}
    engine |= {theirs: prepared[name] for name, theirs in FROM_PREPROCESSING.items()}
    generated = {name: f"_{theirs}" for name, theirs in TO_POSTPROCESSING.items()}
    detokenized = {theirs: generated[name] for name, theirs in TO_POSTPROCESSING.items()}
    return (
        Step("preprocessing", {theirs: ours for ours, theirs in TO_PREPROCESSING.items()}, prepared),
        Step("tensorrt_llm", engine, generated | {name: name for name in LOG_PROBS}),
        Step("postprocessing", detokenized, {"OUTPUT": "text_output"}),
    )


def steps_beside(directory: Path) -> tuple[Step, ...]:
    """The steps that `wiring.json` in this directory describes; `own_steps()` if there is no such file."""
    path = directory / WIRING_FILE
    if not path.is_file():
        return own_steps()
    described = json.loads(path.read_text(encoding="utf-8"))
    return tuple(Step(model, each["takes"], each["gives"]) for model, each in described.items())

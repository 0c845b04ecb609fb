"""Tests of the reference step with the real transformers and the example model."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from enginery.backends.reference import runnable
from enginery.backends.reference.recipe import reference_call
from enginery.backends.reference.step import reference_step
from enginery.builds import Reference, read_reference
from enginery.core.digests import json_digest
from enginery.core.progress import no_log
from enginery.spec import ValidationOptions
from enginery.store import StepContext
from enginery.toolchains import ANSWER_REFERENCE, Toolchain
from tests.support.engines import run_driver
from tests.support.models import __file__ as support
from tests.support.models.numpy_llama import NumpyLlama
from tests.support.paths import CHECKOUT

pytestmark = pytest.mark.integration

TEXTS = {
    "english": "The engine counts to nine and stops there, because nobody has told it what comes after nine. " * 9,
    "french": "Le moteur compte jusqu'à neuf.",
    "code": "def count(to: int) -> list[int]:\n    return list(range(1, to + 1))\n",
}
TOKENS = 400
LITTLE_MEMORY = 1_500_000


def known_answers() -> list[dict[str, str]]:
    """What the example model was trained to answer."""
    known = yaml.safe_load((CHECKOUT / "examples" / "tiny-llama" / "prompts.yaml").read_text(encoding="utf-8"))
    return [{"prompt": one["prompt"], "equals": one["equals"]} for one in known["prompts"][:4]]


def a_context(directory: Path, toolchain: Toolchain, weights: Path, **options: Any) -> StepContext:
    texts = directory / "texts"
    texts.mkdir(parents=True)
    for name, text in TEXTS.items():
        (texts / f"{name}.txt").write_text(text, encoding="utf-8")
    reference = {"texts": str(texts), "max_tokens": TOKENS, "device": "cpu", **options}
    prompts = [{"prompt": one["prompt"]} for one in known_answers()]
    validation = ValidationOptions.model_validate({"prompts": prompts, "reference": reference})
    recipe, output = reference_call(validation), directory / "output"
    output.mkdir()
    return StepContext(
        key=json_digest(recipe.parameters),
        parameters=recipe.parameters,
        inputs={"weights": weights},
        output=output,
        chain=(),
        toolchain=toolchain,
        log=no_log,
        places={"texts": str(texts)},
        timeout=300,
    )


@pytest.fixture(scope="module")
def made(
    transformers_toolchain: Toolchain, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Reference, dict[str, Any]]:
    context = a_context(tmp_path_factory.mktemp("reference"), transformers_toolchain, tiny_weights)
    facts = reference_step(context)
    return read_reference(context.output), dict(facts)


def test_the_predictions_are_those_of_the_models_definition(
    made: tuple[Reference, dict[str, Any]], tiny_weights: Path
) -> None:
    reference, model = made[0], NumpyLlama(tiny_weights)
    for sequence, rows in reference.rows():
        expected = model.logprobs(list(sequence.ids))[sequence.first - 1 : -1]
        found, following = reference.logprobs, np.array(sequence.answer_ids)
        assert found.next_logprobs[rows] == pytest.approx(expected[np.arange(sequence.rows), following], abs=1e-3)
        listed = np.take_along_axis(expected, found.top_ids[rows].astype(int), axis=1)
        assert found.top_logprobs[rows] == pytest.approx(listed, abs=1e-3)
        assert (found.top_ids[rows, 0] == expected.argmax(axis=1)).mean() > 0.98


def test_the_answers_are_those_that_the_model_was_trained_to_give(made: tuple[Reference, dict[str, Any]]) -> None:
    answers, known = made[0].answers, known_answers()
    assert [(one.name, one.prompt, one.text.strip()) for one in answers] == [
        (f"prompt {number}", one["prompt"], one["equals"]) for number, one in enumerate(known, start=1)
    ]
    assert {one.finish for one in answers} == {"eos"}
    assert {one.answer_ids[-1] for one in answers} == {1}
    assert made[1]["near_ties"] == 0


def test_every_text_is_there_in_windows_that_begin_as_the_tokenizer_begins_a_text(
    made: tuple[Reference, dict[str, Any]],
) -> None:
    texts = [one for one in made[0].sequences if one.kind == "text"]
    assert {one.name.rpartition("-")[0] for one in texts} == set(TEXTS)
    assert [one.name for one in texts if one.name.startswith("english")] == ["english-1", "english-2"]
    assert {(one.ids[0], one.first) for one in texts} == {(0, 1)}
    assert max(len(one.ids) for one in texts) == made[0].facts.window == 256
    assert 0.9 * TOKENS < sum(one.rows for one in texts) <= TOKENS


def test_the_facts_say_how_it_was_made(made: tuple[Reference, dict[str, Any]]) -> None:
    facts = made[1]
    assert (facts["dtype"], facts["device"], facts["offloaded"], facts["answers"]) == ("float32", "cpu", False, 4)
    assert facts["seconds"] > 0
    assert facts["peak_memory_bytes"] > 1e8
    assert set(facts["perplexity"]) == {*TEXTS, "answers"}
    assert facts["perplexity"]["answers"] < 2 < facts["perplexity"]["code"]


@pytest.fixture(scope="module")
def runs(
    made: tuple[Reference, dict[str, Any]],
    transformers_toolchain: Toolchain,
    tiny_weights: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, dict[str, Any]]:
    """The driver with too little memory and with damaged weights, and the list of models, in one process."""
    directory = tmp_path_factory.mktemp("runs")
    request = json.loads((made[0].directory.parent / "scratch" / "request.json").read_text(encoding="utf-8"))
    small = directory / "small.json"
    small.write_text(json.dumps(request | {"memory": LITTLE_MEMORY}), encoding="utf-8")
    many = directory / "many.json"
    texts = [{"name": f"t{number}", "text": f"Number {number}. " * 100} for number in range(200)]
    many.write_text(json.dumps(request | {"texts": texts, "prompts": [], "max_tokens": 512}), encoding="utf-8")
    long = directory / "long.json"
    prompt = {"name": "prompt 1", "text": "a " * 500, "add_special_tokens": True, "max_tokens": 9}
    long.write_text(json.dumps(request | {"prompts": [prompt]}), encoding="utf-8")
    jobs: dict[str, list[Any]] = {
        "types": [Path(support).with_name("model_types.py")],
        "small": drive(directory / "small", tiny_weights, small),
        "many": drive(directory / "many", tiny_weights, many),
        "damaged": drive(directory / "damaged", damaged(directory / "weights", tiny_weights), small),
        "long": drive(directory / "long", tiny_weights, long),
        "missing": drive(directory / "missing", incomplete(directory / "incomplete", tiny_weights), small),
    }
    (directory / "jobs.json").write_text(json.dumps(jobs, default=str), encoding="utf-8")
    words = (transformers_toolchain.python, run_driver.__file__, directory / "jobs.json", directory / "runs.json")
    command = [str(word) for word in words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return directory, json.loads((directory / "runs.json").read_text(encoding="utf-8"))


def drive(output: Path, model: Path, request: Path) -> list[Any]:
    output.mkdir()
    places = ["--model", model, "--request", request, "--output", output, "--scratch", output.with_suffix(".scratch")]
    return [ANSWER_REFERENCE, *places]


def damaged(directory: Path, weights: Path) -> Path:
    """The model with a weight of its last layer that is NaN."""
    shutil.copytree(weights, directory)
    path = directory / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"][100] = np.nan
    save_file(tensors, path, metadata={"format": "pt"})
    return directory


def incomplete(directory: Path, weights: Path) -> Path:
    """The model without one of its tensors."""
    shutil.copytree(weights, directory)
    path = directory / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    return directory


def test_a_model_that_does_not_fit_into_memory_gives_the_same(
    made: tuple[Reference, dict[str, Any]], runs: tuple[Path, dict[str, Any]]
) -> None:
    assert runs[1]["small"]["status"] == 0, runs[1]["small"]
    read = read_reference(runs[0] / "small")
    assert read.facts.offloaded is True
    assert read.sequences == made[0].sequences
    assert read.logprobs.top_logprobs == pytest.approx(made[0].logprobs.top_logprobs, abs=1e-4)


def test_of_very_many_texts_some_are_used_and_each_gives_a_long_piece(runs: tuple[Path, dict[str, Any]]) -> None:
    assert runs[1]["many"]["status"] == 0, runs[1]["many"]
    found = read_reference(runs[0] / "many").sequences
    assert [(one.name, one.rows) for one in found] == [(f"t{number}-1", 128) for number in (0, 50, 100, 150)]


def test_weights_that_are_nan_are_no_reference(runs: tuple[Path, dict[str, Any]]) -> None:
    """Every broken engine would agree with it."""
    found = runs[1]["damaged"]
    assert found["status"] == 2
    assert "error: the original weights give logits that are NaN or infinite (" in found["complained"]
    assert list((runs[0] / "damaged").iterdir()) == []


def test_weights_that_are_missing_are_not_made_up(runs: tuple[Path, dict[str, Any]]) -> None:
    found = runs[1]["missing"]
    assert found["status"] == 2
    assert "missing keys model.layers.1.mlp.up_proj.weight" in found["complained"]


def test_the_recorded_models_are_those_of_the_toolchain(runs: tuple[Path, dict[str, Any]]) -> None:
    recorded = json.loads(runnable.MODEL_TYPES.read_text(encoding="utf-8"))
    assert json.loads(runs[1]["types"]["printed"]) == recorded


def test_a_prompt_that_the_model_has_no_room_for_is_named(runs: tuple[Path, dict[str, Any]]) -> None:
    found = runs[1]["long"]
    assert found["status"] == 2
    last = found["complained"].splitlines()[-1]
    assert re.fullmatch(r"error: prompt 1 has \d{3,4} tokens, and the model's limit is 256: '(a ){30}'", last)


def test_of_long_prompts_only_the_logits_of_the_answers_are_made(transformers_toolchain: Toolchain) -> None:
    command = [transformers_toolchain.python, Path(support).with_name("last_logits.py"), ANSWER_REFERENCE.parent]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120, check=False)
    told = [line for line in done.stdout.splitlines() if line.startswith(("logits", "rows"))]
    assert told == ["logits 31", "logits 20", "rows [10, 30, 19]"], done.stderr

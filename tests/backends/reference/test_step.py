import shutil
from pathlib import Path
from typing import Any

import pytest

from enginery.backends.reference.recipe import ReferenceParameters, reference_call
from enginery.backends.reference.step import facts_of, prompt_texts, reference_step
from enginery.backends.reference.tokenizers import tokenizer_digest
from enginery.builds import REFERENCE_FILE, Reference
from enginery.core.digests import json_digest
from enginery.core.errors import CommandError, SourceError, UsageError
from enginery.core.progress import no_log
from enginery.spec import ValidationOptions
from enginery.toolchains import ToolchainIdentity
from enginery.toolchains.venv import Venv
from tests.support.paths import CHECKOUT
from tests.support.references import RecordedContext, answer, text, write_reference

MODEL = CHECKOUT / "examples" / "tiny-llama" / "model"


def a_context(directory: Path, model: Path = MODEL, **validation: Any) -> RecordedContext:
    texts = directory / "english.txt"
    texts.write_text("A text.", encoding="utf-8")
    options = ValidationOptions.model_validate({"reference": {"texts": str(texts)}, **validation})
    parameters, output = reference_call(options).parameters, directory / "output"
    output.mkdir()
    places = {"texts": str(texts)}
    identity = ToolchainIdentity(name="transformers", kind="venv", pins=(), python="3.11")
    toolchain = Venv(identity, Path(), Path("python"), {})
    return RecordedContext("0" * 64, parameters, {"weights": model}, output, (), toolchain, no_log, places=places)


def with_template(directory: Path, template: str) -> Path:
    shutil.copytree(MODEL, directory)
    (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
    return directory


def test_a_chat_is_sent_as_its_template_renders_it_and_gets_no_more_special_tokens(tmp_path: Path) -> None:
    model = with_template(tmp_path / "model", "{{ messages[0].role }}: {{ messages[0].content }}")
    prompts = [{"prompt": "How?", "chat": True}, {"prompt": "Why?"}]
    context = a_context(tmp_path, model, prompts=prompts)
    sent = prompt_texts(context, ReferenceParameters.model_validate(dict(context.parameters)))
    assert [(one.text, one.add_special_tokens) for one in sent] == [("user: How?", False), ("Why?", True)]


def test_a_chat_without_a_template_is_refused(tmp_path: Path) -> None:
    context = a_context(tmp_path, prompts=[{"prompt": "How?"}], chat=True)
    with pytest.raises(SourceError, match="no chat template"):
        prompt_texts(context, ReferenceParameters.model_validate(dict(context.parameters)))


def test_the_driver_is_asked_for_all_that_the_spec_says(tmp_path: Path) -> None:
    context = a_context(tmp_path, prompts=[{"prompt": "How?"}, {"prompt": "Why?", "max_tokens": 3}])
    facts, asked = reference_step(context), context.asked
    assert asked["texts"] == [{"name": "english", "text": "A text."}]
    assert asked["prompts"] == [
        {"name": "prompt 1", "text": "How?", "add_special_tokens": True, "max_tokens": 64},
        {"name": "prompt 2", "text": "Why?", "add_special_tokens": True, "max_tokens": 3},
    ]
    assert (asked["top"], asked["window"], asked["max_tokens"]) == (64, 512, 8192)
    assert (asked["dtype"], asked["device"]) == ("auto", "auto")
    assert asked["about"]["tokenizer_sha256"] == tokenizer_digest(MODEL)
    assert asked["about"]["texts_sha256"] == context.parameters["texts_sha256"]
    assert (facts["tokens"], facts["answers"]) == (4, 1)


def test_a_plan_of_another_version_is_refused(tmp_path: Path) -> None:
    context = a_context(tmp_path)
    context.parameters = {**context.parameters, "driver_sha256": json_digest("another")}
    with pytest.raises(UsageError, match="another version"):
        reference_step(context)


def test_texts_that_changed_since_the_plan_are_refused(tmp_path: Path) -> None:
    context = a_context(tmp_path)
    (tmp_path / "english.txt").write_text("Another text.", encoding="utf-8")
    with pytest.raises(SourceError, match="not the texts that the plan was made for"):
        reference_step(context)


def test_a_reference_that_fails_says_how_to_build_without_one(tmp_path: Path) -> None:
    context = a_context(tmp_path)
    context.failure = CommandError("ended with exit status 2", remedy="read its last lines", last_lines=["error: no"])
    with pytest.raises(CommandError) as error:
        reference_step(context)
    assert error.value.remedy.startswith("read its last lines; or set validation.reference.use: off")
    assert error.value.last_lines == ("error: no",)


def test_the_facts_have_the_perplexity_of_each_text(tmp_path: Path) -> None:
    reference: Reference = write_reference(tmp_path, [text("english-1"), text("english-2"), text("code-1"), answer()])
    facts = facts_of(reference)
    assert (tmp_path / REFERENCE_FILE).is_file()
    assert isinstance(facts["perplexity"], dict)
    assert set(facts["perplexity"]) == {"english", "code", "answers"}
    assert (facts["tokens"], facts["answers"], facts["near_ties"]) == (12, 1, 0)

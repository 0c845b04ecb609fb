"""Tests of chat templates: where they are found, how they are rendered, and whether they are the model's own."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from enginery.core.errors import SourceError
from enginery.models.chat import rendering, sandbox
from enginery.models.chat.findings import chat_findings, chat_notes
from enginery.models.chat.markers import PROBES, Fit, Vocabulary, fit, read_vocabulary
from enginery.models.chat.prompts import sent_prompts
from enginery.models.chat.rendering import Chat, Rendered, render
from enginery.models.chat.templates import ChatTemplate, special_tokens, template_files, template_of
from enginery.spec.validation import ValidationOptions
from tests.support.models.chat_templates import CHATML, GEMMA, LLAMA3, MISTRAL, PLAIN, QWEN, SHAPES, VICUNA, ZEPHYR

Files = Mapping[str, str | Mapping[str, Any]]
Write = Callable[[Files], Path]

OF_CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
OF_LLAMA3 = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
OF_GEMMA = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
OF_LLAMA2 = ("<unk>", "<s>", "</s>")
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.fixture
def model(tmp_path: Path) -> Write:
    """Writes files into a model's directory."""

    def write(files: Files) -> Path:
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path

    return write


def tokenizer(*special: str, vocabulary: tuple[str, ...] = ("a", "b")) -> dict[str, Any]:
    added = [{"id": number, "content": text, "special": True} for number, text in enumerate(special)]
    return {"added_tokens": added, "model": {"vocab": {text: number for number, text in enumerate(vocabulary)}}}


def options(*prompts: dict[str, Any], **more: Any) -> ValidationOptions:
    return ValidationOptions.model_validate({"prompts": prompts, **more})


def in_this_process(text: str, variables: Mapping[str, str], chats: Sequence[Chat]) -> list[Rendered]:
    """What `render` gives, without the process and its limits, which take a quarter of a second."""
    request = {
        "template": text,
        "variables": variables,
        "now": None,
        "chats": [chat.model_dump(mode="json") for chat in chats],
    }
    return [Rendered.model_validate(one) for one in sandbox.rendered(request)]


def chat(*messages: dict[str, str]) -> Chat:
    return Chat.model_validate({"messages": messages or ({"role": "user", "content": "Hi"},)})


NAMED = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "named"}]


@pytest.mark.parametrize(
    ("files", "text", "where"),
    [
        ({"tokenizer_config.json": {"chat_template": "one"}}, "one", "tokenizer_config.json"),
        ({"tokenizer_config.json": {"chat_template": NAMED}}, "named", "tokenizer_config.json"),
        ({"chat_template.json": {"chat_template": "processor"}}, "processor", "chat_template.json"),
        (
            {"tokenizer_config.json": {"chat_template": "one"}, "chat_template.json": {"chat_template": "processor"}},
            "one",
            "tokenizer_config.json",
        ),
        (
            {"tokenizer_config.json": {"chat_template": "one"}, "chat_template.jinja": "file"},
            "file",
            "chat_template.jinja",
        ),
        (
            {"chat_template.jinja": "file", "additional_chat_templates/tool_use.jinja": "tools"},
            "file",
            "chat_template.jinja",
        ),
        (
            {"tokenizer_config.json": {"chat_template": "one"}, "additional_chat_templates/default.jinja": "more"},
            "more",
            "additional_chat_templates/default.jinja",
        ),
    ],
)
def test_the_template_is_found_in_the_order_of_transformers(model: Write, files: Files, text: str, where: str) -> None:
    found = template_of(model(files))
    assert found is not None
    assert (found.text, found.where) == (text, where)


@pytest.mark.parametrize("files", [{}, {"tokenizer_config.json": {"bos_token": "<s>"}}, {"chat_template.txt": "x"}])
def test_a_model_without_a_template_has_none(model: Write, files: Files) -> None:
    assert template_of(model(files)) is None


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"tokenizer_config.json": {"chat_template": NAMED[:1]}}, "none with the name default: tool_use"),
        ({"tokenizer_config.json": {"chat_template": 7}}, "neither a text nor a list of templates"),
        ({"tokenizer_config.json": {"chat_template": [{"name": "default"}]}}, "neither a text nor a list"),
        ({"tokenizer_config.json": "{"}, "is not JSON"),
    ],
)
def test_a_template_that_cannot_be_read_is_one_error_that_names_the_file(
    model: Write, files: Files, problem: str
) -> None:
    with pytest.raises(SourceError, match=problem) as caught:
        template_of(model(files))
    assert caught.value.subject == "tokenizer_config.json"
    assert caught.value.remedy


def test_a_template_that_is_no_text_is_refused(model: Write) -> None:
    directory = model({})
    (directory / "chat_template.jinja").write_bytes(b"\xff\xfe{")
    with pytest.raises(SourceError, match="chat_template.jinja: is not UTF-8"):
        template_of(directory)


@pytest.mark.parametrize(
    ("files", "tokens"),
    [
        ({"tokenizer_config.json": {"bos_token": {"content": "<s>"}, "eos_token": None}}, {"bos_token": "<s>"}),
        ({"tokenizer_config.json": {"image_token": "<i>", "chat_template": "x"}}, {"image_token": "<i>"}),
        ({"tokenizer_config.json": {"extra_special_tokens": {"boi_token": "<b>"}}}, {"boi_token": "<b>"}),
        (
            {"tokenizer_config.json": {"bos_token": "<a>"}, "special_tokens_map.json": {"bos_token": "<b>"}},
            {"bos_token": "<b>"},
        ),
        (
            {
                "tokenizer_config.json": {"bos_token": "<a>", "added_tokens_decoder": {}},
                "special_tokens_map.json": {"bos_token": "<b>"},
            },
            {"bos_token": "<a>"},
        ),
        (
            {"tokenizer_config.json": {"tokenizer_class": "LlamaTokenizerFast"}},
            {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        ),
    ],
)
def test_special_tokens_are_those_that_transformers_gives_a_template(
    model: Write, files: Files, tokens: dict[str, str]
) -> None:
    assert special_tokens(model(files)) == tokens


def test_what_somebody_needs_to_render_chats_is_named(model: Write) -> None:
    names = ["additional_chat_templates/tool_use.jinja", "chat_template.jinja", "tokenizer_config.json"]
    others = {"config.json": {}, "additional_chat_templates/README.md": "x", "tokenizer.json": {}}
    files: dict[str, Any] = {**dict.fromkeys(names, "{}"), **others}
    assert template_files(model(files)) == names


def test_the_error_of_a_template_is_what_it_says() -> None:
    system = chat({"role": "system", "content": "Be brief."})
    for text, error in (
        (GEMMA, "System role not supported"),
        (MISTRAL, "Roles must alternate user/assistant/user/assistant/..."),
    ):
        assert in_this_process(text, TOKENS, [system]) == [Rendered(error=error)]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{% if %}", r"Expected an expression.*\(line 1\)"),
        ("{{ messages[0].content.nothing.more }}", "has no attribute 'nothing'"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ namespace(__init__=1) }}", "underscore"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% for i in range(99999) %}{{ 'a' * 999 }}{% endfor %}", "more than 4,000,000 characters"),
        ("{{ '\\ud800' }}", "surrogates not allowed"),
        ("{{ raise_exception('') }}", "it raises an error without a text"),
    ],
)
def test_a_broken_or_hostile_template_is_an_error_and_nothing_else(text: str, error: str) -> None:
    (found,) = in_this_process(text, {}, [chat()])
    assert found.text is None
    assert re.search(error, found.error or "")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "it calls itself without end"),
        ("{{ 'a' * 3000000000 }}", "it needs more than 1024 MiB of memory"),
    ],
)
def test_a_template_that_takes_too_much_is_an_error(text: str, error: str) -> None:
    template = ChatTemplate(file="chat_template.jinja", text=text)
    assert render(template, {}, [chat()]) == (Rendered(error=error),)


def test_a_template_that_never_ends_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "SECONDS", 2.0)
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(SourceError, match="the chat template does not end"):
        render(ChatTemplate(file="chat_template.jinja", text=endless), {}, [chat()])


def test_the_time_that_a_template_is_told_can_be_fixed() -> None:
    template = ChatTemplate(file="chat_template.jinja", text="{{ strftime_now('%d %b %Y') }}")
    (found,) = render(template, {}, [chat()], now=rendering.FIXED_DAY)
    assert found.text == "01 Jan 2026"
    (now,) = in_this_process(template.text, {}, [chat()])
    assert now.text != found.text


def fit_of(text: str, *special: str, **tokens: str) -> Fit:
    """How a template fits a tokenizer with these special tokens."""
    vocabulary = Vocabulary(tokens=frozenset(special), special=frozenset(special))
    given = tokens or TOKENS
    return fit(in_this_process(text, given, PROBES), vocabulary, given.get("bos_token", ""))


@pytest.mark.parametrize(
    ("text", "special", "tokens"),
    [
        (CHATML, OF_CHATML, {}),
        (QWEN, OF_CHATML, {}),
        (LLAMA3, OF_LLAMA3, {"bos_token": "<|begin_of_text|>"}),
        (GEMMA, OF_GEMMA, {"bos_token": "<bos>"}),
        (SHAPES["deepseek"], ("<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<s>", "</s>"), {}),
        (SHAPES["phi"], ("<|user|>", "<|assistant|>", "<|end|>"), {"eos_token": "<|end|>"}),
    ],
)
def test_a_models_own_template_fits_its_tokenizer(text: str, special: tuple[str, ...], tokens: dict[str, str]) -> None:
    assert fit_of(text, *special, **tokens) == Fit()


@pytest.mark.parametrize(("text", "markers"), [(ZEPHYR, "<|user|>, <|assistant|>"), (MISTRAL, "[INST], [/INST]")])
def test_markers_that_are_no_tokens_are_right_if_an_answer_ends_with_one(text: str, markers: str) -> None:
    found = fit_of(text, *OF_LLAMA2)
    assert found.wrong == ""
    assert found.notes == (f"the chat template writes {markers}, which are no tokens of this tokenizer",)


def test_plain_words_for_the_roles_are_noted_also_where_the_tokenizer_has_tokens_for_turns() -> None:
    """As with Tulu 3, which has the tokenizer of Llama 3."""
    found = fit_of(ZEPHYR, *OF_LLAMA3, "<|end_of_text|>", eos_token="<|end_of_text|>")
    assert found.wrong == ""
    assert len(found.notes) == 2
    assert "<|user|>, <|assistant|>, which are no tokens" in found.notes[0]
    assert "does not use the tokenizer's <|start_header_id|>" in found.notes[1]


@pytest.mark.parametrize(
    ("text", "special", "tokens", "named"),
    [
        (CHATML, OF_LLAMA3, {}, "<|im_end|>"),
        (CHATML, ("<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"), {}, "<|im_end|>"),
        (LLAMA3, OF_CHATML, {"bos_token": "<|endoftext|>"}, "<|eot_id|>"),
        (GEMMA, OF_CHATML, {"bos_token": ""}, "<end_of_turn>"),
        (MISTRAL, OF_CHATML, {"bos_token": "", "eos_token": "<|im_end|>"}, "[INST]"),
        (MISTRAL, OF_CHATML, {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}, "[INST]"),
        (SHAPES["deepseek"], OF_LLAMA2, {}, "<\uff5cUser\uff5c>"),
        (SHAPES["macros"], OF_LLAMA2, {}, "<|im_start|>"),
    ],
)
def test_another_models_template_is_recognized(
    text: str, special: tuple[str, ...], tokens: dict[str, str], named: str
) -> None:
    assert named in fit_of(text, *special, **tokens).wrong


def test_a_template_without_a_generation_prompt_is_noted() -> None:
    silent = CHATML.partition("{% if add_generation_prompt")[0]
    assert fit_of(silent, *OF_CHATML).notes == (
        "the chat template has no generation prompt: it does not tell the model that it is its turn",
    )
    assert fit_of(MISTRAL, *OF_LLAMA2, "[INST]", "[/INST]").notes == ()


def test_plain_words_in_place_of_the_tokenizers_markers_are_noted() -> None:
    found = fit_of(VICUNA, *OF_CHATML, eos_token="<|im_end|>")
    assert found == Fit(notes=("the chat template does not use the tokenizer's <|im_start|>",))


def test_a_vocabulary_is_read_from_any_kind_of_tokenizer(model: Write) -> None:
    assert read_vocabulary(model({})) is None
    pairs = {"added_tokens": [{"content": "<s>", "special": True}], "model": {"vocab": [["x", -1.0], ["y", -2.0]]}}
    found = read_vocabulary(model({"tokenizer.json": pairs}))
    assert found is not None
    assert sorted(found.tokens) == ["<s>", "x", "y"]
    assert sorted(found.special) == ["<s>"]
    assert read_vocabulary(model({"tokenizer.json": "no JSON"})) is None


CHAT_MODEL = {
    "tokenizer_config.json": {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": CHATML},
    "tokenizer.json": tokenizer(*OF_CHATML),
}


def test_chats_are_rendered_and_raw_prompts_are_sent_as_they_are(model: Write) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2?"}]
    asked = options({"prompt": "raw", "chat": False}, {"prompt": "Hi"}, {"messages": messages}, chat=True)
    sent = sent_prompts(model(CHAT_MODEL), asked)
    assert sent.template == "tokenizer_config.json"
    assert sent.notes == ()
    assert [one.text for one in sent.prompts] == [
        "raw",
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n",
    ]
    assert [one.add_special_tokens for one in sent.prompts] == [True, False, False]
    assert [len(one.messages) for one in sent.prompts] == [0, 1, 2]


def test_without_chats_no_template_is_needed(model: Write) -> None:
    sent = sent_prompts(model({}), options({"prompt": "raw"}))
    assert (sent.prompts[0].text, sent.prompts[0].add_special_tokens, sent.template) == ("raw", True, "")


def test_a_chat_without_a_template_is_an_error(model: Write) -> None:
    with pytest.raises(SourceError, match="the model has no chat template"):
        sent_prompts(model({}), options({"prompt": "Hi", "chat": True}))


def test_every_chat_that_the_template_refuses_is_named_in_one_error(model: Write) -> None:
    config = {"bos_token": "<bos>", "chat_template": GEMMA}
    directory = model({"tokenizer_config.json": config, "tokenizer.json": tokenizer(*OF_GEMMA)})
    asked = {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]}
    with pytest.raises(SourceError) as caught:
        sent_prompts(directory, options(asked, {"prompt": "Hi", "chat": True}, asked))
    assert str(caught.value).startswith("tokenizer_config.json: ")
    for number in (0, 2):
        expected = f"validation.prompts.{number} (system, user): the chat template says: System role not supported"
        assert expected in str(caught.value)
    assert "prompts.1" not in str(caught.value)


def test_another_models_template_stops_with_template_token_and_tokenizer_unless_it_is_accepted(model: Write) -> None:
    directory = model({**CHAT_MODEL, "tokenizer.json": tokenizer(*OF_LLAMA3)})
    asked = options({"prompt": "Hi", "chat": True})
    with pytest.raises(SourceError) as caught:
        sent_prompts(directory, asked)
    for word in ("tokenizer_config.json", "<|im_end|>", "tokenizer.json", "validation.gates.answers: warn"):
        assert word in str(caught.value)
    accepted = sent_prompts(directory, asked, wrong_template=True)
    assert accepted.prompts[0].text.startswith("<|im_start|>")
    assert "<|im_end|>" in accepted.notes[0]


def test_a_chat_that_becomes_an_empty_text_is_an_error(model: Write) -> None:
    directory = model({"chat_template.jinja": "", "tokenizer.json": tokenizer("<s>")})
    with pytest.raises(SourceError, match="makes an empty text"):
        sent_prompts(directory, options({"prompt": "Hi", "chat": True}))


def test_a_plain_template_gives_the_text_with_the_token_that_begins_it(model: Write) -> None:
    config = {"bos_token": "<s>", "chat_template": PLAIN}
    directory = model({"tokenizer_config.json": config, "tokenizer.json": tokenizer("<s>")})
    assert sent_prompts(directory, options({"prompt": "Hi"}, chat=True)).prompts[0].text == "<s>Hi"


@pytest.mark.parametrize(
    ("asked", "paths"),
    [
        (options({"prompt": "a"}, {"prompt": "b"}, chat=True), ["validation.chat"]),
        (options({"prompt": "a"}, {"prompt": "b", "chat": True}), ["validation.prompts.1.chat"]),
        (options({"messages": [{"role": "user", "content": "a"}]}), ["validation.prompts.0.messages"]),
        (options({"prompt": "a"}), []),
        (options({"prompt": "a", "chat": False}, chat=True), []),
        (options(chat=True), []),
    ],
)
def test_a_chat_without_a_template_is_found_when_the_plan_is_made(asked: ValidationOptions, paths: list[str]) -> None:
    found = list(chat_findings(asked, ""))
    assert [(finding.code, finding.path) for finding in found] == [("E520", path) for path in paths]
    assert list(chat_findings(asked, "chat_template.jinja")) == []


def test_prompts_that_ignore_the_template_are_noted() -> None:
    raw = options({"prompt": "a"}, {"prompt": "b", "chat": True})
    (note,) = chat_notes(raw, "chat_template.jinja")
    assert "chat_template.jinja" in note
    assert "1 of 2 prompts" in note
    assert list(chat_notes(raw, "")) == []
    assert list(chat_notes(options({"prompt": "a", "chat": False}), "chat_template.jinja")) == []
    assert list(chat_notes(options({"prompt": "a"}, chat=True), "chat_template.jinja")) == []

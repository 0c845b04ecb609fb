"""Finds a model's chat template, in the files and in the order in which `transformers` looks for it.

`chat_template.jinja` and the files in `additional_chat_templates` come first, all of them together. Without these, it
is what `tokenizer_config.json` says: one template, or several with names. `chat_template.json` belongs to processors of
multimodal models, and is read last. Of several templates, the one named `default` is used.
"""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from enginery.core.errors import SourceError
from enginery.core.model import Frozen

TEMPLATE_FILE = "chat_template.jinja"
PROCESSOR_TEMPLATE = "chat_template.json"
MORE_TEMPLATES = "additional_chat_templates"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
DEFAULT = "default"
FIELD = "chat_template"
ENDING = ".jinja"

OF_CLASS: Mapping[str, Mapping[str, str]] = {
    "LlamaTokenizer": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "GemmaTokenizer": {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "GPT2Tokenizer": dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
    "Qwen2Tokenizer": dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
}
"""Class of a tokenizer -> its special tokens where `tokenizer_config.json` does not have them."""

Read = Callable[[str], bytes]
"""Gives the content of a file of the model by its name."""


class ChatTemplate(Frozen):
    """A model's chat template.

    Attributes:
        file: the file that it is in.
        name: its name among several templates; `default` for the one that is used without a name.
        text: the Jinja code.
    """

    file: str
    name: str = DEFAULT
    text: str

    @property
    def where(self) -> str:
        """The file, and the name if the file has several templates."""
        return self.file if self.name == DEFAULT else f"{self.file} ({self.name})"


def is_template(name: str) -> bool:
    """Whether a file of this name, relative to the model, is a chat template and nothing else."""
    folder, _, file = name.rpartition("/")
    return name in {TEMPLATE_FILE, PROCESSOR_TEMPLATE} or (folder == MORE_TEMPLATES and file.endswith(ENDING))


def find_templates(names: Collection[str], read: Read) -> tuple[ChatTemplate, ...]:
    """A model's chat templates; none for a model without one.

    Args:
        names: the names of the model's files.
        read: gives the content of one of them.

    Raises:
        SourceError: when a file cannot be read as what it should be.
    """
    found = (
        {DEFAULT: ChatTemplate(file=TEMPLATE_FILE, text=_text(TEMPLATE_FILE, read))} if TEMPLATE_FILE in names else {}
    )
    for name in sorted(one for one in names if one.startswith(f"{MORE_TEMPLATES}/") and is_template(one)):
        called = name.rpartition("/")[2].removesuffix(ENDING)
        found[called] = ChatTemplate(file=name, name=called, text=_text(name, read))
    for name in (TOKENIZER_CONFIG, PROCESSOR_TEMPLATE):
        if not found and name in names:
            found = {one.name: one for one in _in_json(name, read)}
    return tuple(found.values())


def template_files(directory: Path) -> list[str]:
    """The names of the files that somebody needs to render chats as here: the templates, and the special tokens.

    They are relative to the model's directory.
    """
    names = _names(directory)
    return sorted(name for name in names if is_template(name) or name in {TOKENIZER_CONFIG, SPECIAL_TOKENS})


def template_of(directory: Path) -> ChatTemplate | None:
    """The template that a model's messages are rendered with; None for a model without one.

    Raises:
        SourceError: when a file cannot be read, or the model has several templates and none is the default.
    """
    found = find_templates(_names(directory), lambda name: (directory / name).read_bytes())
    return chosen_template(found)


def chosen_template(templates: Collection[ChatTemplate]) -> ChatTemplate | None:
    """The template that is used when none is named; None if there is none at all.

    Raises:
        SourceError: when there are several, and none is the default.
    """
    if not templates:
        return None
    default = next((one for one in templates if one.name == DEFAULT), None)
    if default is None:
        names = ", ".join(sorted(one.name for one in templates))
        raise SourceError(
            f"the model has chat templates, but none with the name {DEFAULT}: {names}",
            subject=next(iter(templates)).file,
            remedy=f"name the one that is to be used {DEFAULT}, or write the texts as prompt, without chat",
        )
    return default


def special_tokens(directory: Path) -> dict[str, str]:
    """The special tokens that a template may use: `bos_token` and the like -> their text.

    Raises:
        SourceError: when a file cannot be read as JSON.
    """
    config = _object(directory, TOKENIZER_CONFIG)
    name = str(config.get("tokenizer_class") or "").removesuffix("Fast")
    found: dict[str, Any] = {**OF_CLASS.get(name, {}), **config}
    if "added_tokens_decoder" not in config:  # else the file below is not read
        found |= _object(directory, SPECIAL_TOKENS)
    extra = found.get("extra_special_tokens")
    found |= extra if isinstance(extra, dict) else {}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in found.items()}
    return {name: text for name, text in texts.items() if name.endswith("_token") and isinstance(text, str)}


def _names(directory: Path) -> list[str]:
    more = directory / MORE_TEMPLATES
    nested = [f"{MORE_TEMPLATES}/{path.name}" for path in more.iterdir()] if more.is_dir() else []
    return [*(path.name for path in directory.iterdir() if path.is_file()), *nested]


def _text(name: str, read: Read) -> str:
    try:
        return read(name).decode()
    except UnicodeDecodeError as error:
        remedy = "save it as UTF-8"
        raise SourceError(f"is not UTF-8 (position {error.start})", subject=name, remedy=remedy) from error


def _in_json(name: str, read: Read) -> list[ChatTemplate]:
    """The templates in a JSON file: the text of one, or a list of several with `name` and `template`."""
    try:
        document = json.loads(read(name).decode())
    except (ValueError, RecursionError) as error:
        remedy = "check that the model is complete"
        raise SourceError(f"is not JSON: {error}", subject=name, remedy=remedy) from error
    said = document.get(FIELD) if isinstance(document, dict) else None
    if said is None:
        return []
    if isinstance(said, str):
        return [ChatTemplate(file=name, text=said)]
    try:
        named = said.items() if isinstance(said, dict) else [(one["name"], one["template"]) for one in said]
        return [ChatTemplate(file=name, name=called, text=text) for called, text in named]
    except (TypeError, KeyError, ValueError) as error:
        raise SourceError(
            f"its {FIELD} is neither a text nor a list of templates with name and template",
            subject=name,
            remedy="use the file that the model's makers published",
        ) from error


def _object(directory: Path, name: str) -> dict[str, Any]:
    path = directory / name
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        remedy = "check that the model is complete"
        raise SourceError(f"is not JSON: {error}", subject=name, remedy=remedy) from error
    return found if isinstance(found, dict) else {}

"""Rendered chats against the transformers of a toolchain."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from enginery.models.chat.rendering import Chat, render
from enginery.models.chat.templates import special_tokens, template_of
from tests.support.models import __file__ as support
from tests.support.models.chat_templates import CHATS, NOT_ACCEPTED, PLAIN, SHAPES

SCRIPT = Path(support).with_name("apply_templates.py")
pytestmark = pytest.mark.integration


def with_template(model: Path, place: Path, how: str, text: str) -> Path:
    """A copy of a model's tokenizer with this template, kept in one of the ways in which models keep it."""
    place.mkdir(parents=True)
    shutil.copy(model / "tokenizer.json", place)
    shutil.copy(model / "config.json", place)
    config = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
    match how:
        case "config":
            config["chat_template"] = text
        case "named":
            named = [("tool_use", "tools"), ("default", text)]
            config["chat_template"] = [{"name": name, "template": one} for name, one in named]
        case "both":
            config["chat_template"] = "not this one"
            (place / "chat_template.jinja").write_text(text, encoding="utf-8")
        case "additional":
            config["chat_template"] = "not this one"
            (place / "additional_chat_templates").mkdir()
            (place / "additional_chat_templates" / "default.jinja").write_text(text, encoding="utf-8")
            (place / "additional_chat_templates" / "tool_use.jinja").write_text("tools", encoding="utf-8")
        case "map":
            config["chat_template"] = text
            (place / "special_tokens_map.json").write_text('{"bos_token": {"content": "<|pad|>"}}', encoding="utf-8")
    (place / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def models(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("templates")
    shapes = [with_template(tiny_weights, directory / name, "config", text) for name, text in SHAPES.items()]
    ways = ("named", "both", "additional", "map")
    return [*shapes, *(with_template(tiny_weights, directory / how, how, PLAIN) for how in ways)]


@pytest.fixture(scope="module")
def expected(onnxruntime_python: Path, models: list[Path]) -> dict[str, Any]:
    command = [str(word) for word in (onnxruntime_python, SCRIPT, json.dumps(CHATS), *models)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RENDERED ")]
    return dict(json.loads(line.removeprefix("RENDERED ")))


def test_chats_of_every_shape_are_rendered_as_by_transformers(models: list[Path], expected: dict[str, Any]) -> None:
    chats = [Chat.model_validate({"messages": messages}) for messages in CHATS.values()]
    for model in models:
        template = template_of(model)
        assert template is not None
        rendered = dict(zip(CHATS, render(template, special_tokens(model), chats), strict=True))
        for name, one in rendered.items():
            theirs = expected[f"{model} {name}"]
            assert one.text == theirs.get("text"), (model.name, name)
            assert (one.error is None) == ("error" not in theirs)
            assert one.error in {None, theirs.get("error")}
        if model.name in NOT_ACCEPTED:
            assert rendered["system"].error == NOT_ACCEPTED[model.name]


def test_the_tokens_are_those_of_the_text_without_special_tokens_added(
    models: list[Path], expected: dict[str, Any]
) -> None:
    for model in models:
        tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        for name in CHATS:
            theirs = expected[f"{model} {name}"]
            if "text" in theirs:
                assert tokenizer.encode(theirs["text"], add_special_tokens=False).ids == theirs["ids"]

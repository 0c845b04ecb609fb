"""The prompts of a spec as they are sent: chats rendered with the model's template, other prompts as they are.

`transformers` encodes a rendered chat without adding special tokens: the template has written those that belong there.
"""

from collections.abc import Sequence
from pathlib import Path

from enginery.core.errors import SourceError
from enginery.core.model import Frozen
from enginery.models.chat.markers import PROBES, TOKENIZER_FILE, Fit, fit, read_vocabulary
from enginery.models.chat.rendering import FIXED_DAY, Chat, Rendered, render
from enginery.models.chat.templates import ChatTemplate, special_tokens, template_of
from enginery.spec import Message, Prompt, ValidationOptions

USER = "user"
AS_PUBLISHED = "use the template that the model's makers published, or write the texts as prompt, without chat"


class SentPrompt(Frozen):
    """A prompt as it is sent to the model.

    Attributes:
        text: what the tokenizer gets.
        add_special_tokens: whether the tokenizer adds its own special tokens; a rendered chat has them already.
        messages: the chat that was rendered; empty for a raw prompt.
    """

    text: str
    add_special_tokens: bool = True
    messages: tuple[Message, ...] = ()


class SentPrompts(Frozen):
    """All prompts of a spec as they are sent.

    Attributes:
        prompts: in the spec's order.
        template: where the chat template is; empty if no prompt is a chat.
        notes: what is strange about the template, for the report.
    """

    prompts: tuple[SentPrompt, ...]
    template: str = ""
    notes: tuple[str, ...] = ()


def is_chat(prompt: Prompt, validation: ValidationOptions) -> bool:
    """Whether a prompt goes through the chat template."""
    return prompt.messages is not None or (validation.chat if prompt.chat is None else prompt.chat)


def messages_of(prompt: Prompt) -> tuple[Message, ...]:
    """The messages of a chat; a plain prompt is the user's message."""
    return prompt.messages or (Message(role=USER, content=prompt.prompt or ""),)


def sent_prompts(weights: Path, validation: ValidationOptions, *, wrong_template: bool = False) -> SentPrompts:
    """The prompts of a spec as they are sent to the model.

    Args:
        weights: the model's directory, with its tokenizer and its template.
        validation: the spec's prompts.
        wrong_template: whether to accept a template whose markers are not the tokenizer's. It is noted.

    Raises:
        SourceError: when the model has no template, when the template refuses the messages, or when it is another
            model's.
    """
    chats = [is_chat(prompt, validation) for prompt in validation.prompts]
    if not any(chats):
        return SentPrompts(prompts=tuple(SentPrompt(text=prompt.prompt or "") for prompt in validation.prompts))
    template = template_of(weights)
    if template is None:
        remedy = "leave out messages and chat, or use the chat version of the model, which has one"
        raise SourceError("the model has no chat template", subject=f"prompts of {weights.name}", remedy=remedy)
    asked = [messages_of(prompt) for prompt, is_one in zip(validation.prompts, chats, strict=True) if is_one]
    every = [*PROBES, *(Chat(messages=messages) for messages in asked)]
    tokens = special_tokens(weights)
    rendered = render(template, tokens, every, now=FIXED_DAY)
    found = fit(rendered[: len(PROBES)], read_vocabulary(weights), tokens.get("bos_token", ""))
    texts = _texts(template, validation, chats, rendered[len(PROBES) :])
    _require_fit(template, found, wrong_template=wrong_template)
    made = iter(
        SentPrompt(text=text, add_special_tokens=False, messages=messages)
        for text, messages in zip(texts, asked, strict=True)
    )
    prompts = [
        next(made) if is_one else SentPrompt(text=prompt.prompt or "")
        for prompt, is_one in zip(validation.prompts, chats, strict=True)
    ]
    noted = (f"{template.where} was accepted although {found.wrong} {TOKENIZER_FILE}",) if found.wrong else ()
    return SentPrompts(prompts=tuple(prompts), template=template.where, notes=(*noted, *found.notes))


def _texts(
    template: ChatTemplate, validation: ValidationOptions, chats: Sequence[bool], rendered: Sequence[Rendered]
) -> list[str]:
    """The text of each chat. All that the template refuses are one error."""
    numbers = [number for number, is_one in enumerate(chats) if is_one]
    refused = []
    for number, one in zip(numbers, rendered, strict=True):
        roles = ", ".join(message.role for message in messages_of(validation.prompts[number]))
        if one.text is None:
            refused.append(f"validation.prompts.{number} ({roles}): the chat template says: {one.error}")
        elif not one.text:
            refused.append(f"validation.prompts.{number} ({roles}): the chat template makes an empty text of it")
    if refused:
        listed = "".join(f"\n  - {line}" for line in refused)
        remedy = "change the messages to what this template accepts, or write the text as prompt, without chat"
        raise SourceError(refused[0] if len(refused) == 1 else listed, subject=template.where, remedy=remedy)
    return [one.text or "" for one in rendered]


def _require_fit(template: ChatTemplate, found: Fit, *, wrong_template: bool) -> None:
    if found.wrong and not wrong_template:
        raise SourceError(
            f"this is not the chat template of this model: {found.wrong} {TOKENIZER_FILE}",
            subject=template.where,
            remedy=f"{AS_PUBLISHED}; to accept it, set validation.gates.answers: warn",
        )

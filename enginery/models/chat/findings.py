"""What a plan says of a spec's chats, before anything runs."""

from collections.abc import Iterator

from enginery.models.chat.prompts import is_chat
from enginery.spec import Finding, ValidationOptions


def chat_findings(validation: ValidationOptions, template: str) -> Iterator[Finding]:
    """Findings for prompts that need a chat template, if the model has none.

    Args:
        validation: the prompts of a target.
        template: where the model's chat template is; empty if it has none.
    """
    if template:
        return
    for path in dict.fromkeys(_paths(validation)):
        problem = "it needs a chat template, and the model has none"
        remedy = "write the text as the model knows it as prompt, without chat, or use the model's chat version"
        yield Finding("E520", f"validation.{path}", problem, remedy)


def chat_notes(validation: ValidationOptions, template: str) -> Iterator[str]:
    """Notes on prompts that ignore the chat template."""
    raw = [prompt for prompt in validation.prompts if not is_chat(prompt, validation) and prompt.chat is None]
    if template and raw:
        which = f"{len(raw)} of {len(validation.prompts)} prompts" if len(validation.prompts) > 1 else "the prompt"
        yield (
            f"the model has a chat template ({template}) that {which} will not go through: a chat model may answer raw"
            " text with nothing; set validation.chat: true, or chat: false if it is meant so"
        )


def _paths(validation: ValidationOptions) -> Iterator[str]:
    """The fields because of which prompts are chats."""
    for number, prompt in enumerate(validation.prompts):
        if prompt.messages is not None:
            yield f"prompts.{number}.messages"
        elif is_chat(prompt, validation):
            yield "chat" if prompt.chat is None else f"prompts.{number}.chat"

"""Renders chats with a model's template, in a process of its own.

The sandbox keeps a template from files and from Python. It does not keep it from loops or from filling the memory; the
limits of the process do. A template that never ends is stopped after some seconds.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from enginery.core.errors import CommandError, SourceError
from enginery.core.files import write_atomic
from enginery.core.model import Frozen
from enginery.core.process import run
from enginery.core.progress import no_log
from enginery.models.chat.templates import ChatTemplate
from enginery.spec import Message

SANDBOX = Path(__file__).with_name("sandbox.py")
SECONDS = 60.0
"""Time of the whole process. On a busy machine, its seconds of CPU last longer."""
SECONDS_OF_CPU = 20
BYTES_OF_MEMORY = 2**30

FIXED_DAY = datetime(2026, 1, 1)  # noqa: DTZ001  a template asks for local time
"""The time that a template is told in a build. With the real one, a repeated step would send other prompts."""


class Chat(Frozen):
    """Messages, and whether the beginning of the model's own answer follows them."""

    messages: tuple[Message, ...]
    add_generation_prompt: bool = True


class Rendered(Frozen):
    """The text of a chat, or why the template refuses it. One of the two is None."""

    text: str | None = None
    error: str | None = None


def render(
    template: ChatTemplate, variables: Mapping[str, str], chats: Sequence[Chat], *, now: datetime | None = None
) -> tuple[Rendered, ...]:
    """Render chats with a template.

    Args:
        template: the model's template.
        variables: the special tokens, such as `bos_token`.
        chats: what to render.
        now: the time that the template is told; the present when left out.

    Returns:
        For each chat, its text or the template's error.

    Raises:
        SourceError: when the template does not end, or needs too much memory.
    """
    request = {
        "template": template.text,
        "variables": dict(variables),
        "now": now.isoformat() if now else None,
        "chats": [chat.model_dump(mode="json") for chat in chats],
        "limits": {"cpu": SECONDS_OF_CPU, "memory": BYTES_OF_MEMORY},
    }
    with TemporaryDirectory(prefix="enginery-chat-") as scratch:
        asked, answered = Path(scratch) / "request.json", Path(scratch) / "answer.json"
        write_atomic(asked, json.dumps(request))
        command = [sys.executable, "-P", str(SANDBOX), str(asked), str(answered)]
        try:
            run(command, log=no_log, timeout=SECONDS)
        except CommandError as error:
            raise _too_much(template, error) from error
        found = json.loads(answered.read_text(encoding="utf-8"))["chats"]
    return tuple(Rendered.model_validate(one) for one in found)


def _too_much(template: ChatTemplate, error: CommandError) -> SourceError:
    """The error for a template that the limits of its process have ended."""
    ended = any(word in error.problem for word in ("SIGKILL", "SIGXCPU", "time limit"))
    why = f"does not end: it was stopped after {SECONDS_OF_CPU} seconds" if ended else f"fails: {error.problem}"
    said = f" ({error.last_lines[-1]})" if error.last_lines and not ended else ""
    remedy = "use the template that the model's makers published, or write the texts as prompt, without chat"
    return SourceError(f"the chat template {why}{said}", subject=template.where, remedy=remedy)

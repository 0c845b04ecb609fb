"""Renders chat templates in a sandbox. Runs as a process of its own, because a template may be hostile.

It needs nothing but Jinja. It reads the request from the file that the first argument names, and writes the answer to
the second one: for each chat a text, or an error. Its sandbox, filters and variables are those with which
`transformers` renders a chat template.
"""

import json
import resource
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MOST_CHARACTERS = 4_000_000
"""The longest text. A prompt of a million tokens has about as many characters."""


class Generation(Extension):
    """The tag `generation`, which marks what the model says, for training. It changes nothing in the text."""

    tags = {"generation"}  # noqa: RUF012  as Jinja's own extensions say it

    def parse(self, parser: Parser) -> nodes.Node:
        """Take everything up to `endgeneration` as it is."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_unchanged"), [], [], body).set_lineno(line)

    def _unchanged(self, caller: Macro) -> str:
        return str(caller())


class Names(Namespace):
    """Jinja's `namespace`, without names that begin with an underscore: these reach into Python."""

    def __init__(*args: Any, **given: Any) -> None:
        self, *mappings = args
        found = dict(*mappings, **given)
        for name in found:
            _refuse_underscore(name)
        Namespace.__init__(self, found)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


class Dictionary:
    """Python's `dict` as a template may use it: it can be called, and nothing else."""

    def __call__(self, *args: Any, **given: Any) -> dict[Any, Any]:
        """A new dictionary."""
        return dict(*args, **given)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """A dictionary with these keys."""
        return dict.fromkeys(*args)


def _refuse_underscore(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"it stores {name!r} in a namespace; names must not begin with an underscore")


def _raise(message: object) -> None:
    raise TemplateError(str(message))


def _json(  # the arguments of transformers' filter
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    """JSON as it is. Jinja's own filter would escape characters of HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment(now: Callable[[], datetime] = datetime.now) -> ImmutableSandboxedEnvironment:
    """The sandbox in which templates are rendered. `now` is the time that `strftime_now` tells."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = _json
    made.globals |= {
        "raise_exception": _raise,
        "strftime_now": lambda form: now().strftime(form),
        "dict": Dictionary(),
        "namespace": Names,
    }
    return made


def rendered(request: Mapping[str, Any]) -> list[dict[str, str]]:
    """The text, or the error, for each chat of a request.

    Args:
        request: `template`, the Jinja code; `variables`, the special tokens; `now`, an ISO time or null for the
            present; `chats`, each with `messages` and `add_generation_prompt`.
    """
    fixed = datetime.fromisoformat(request["now"]) if request["now"] else None
    try:
        template = environment(lambda: fixed or datetime.now()).from_string(request["template"])  # noqa: DTZ005
    except (TemplateError, RecursionError) as error:
        return [{"error": _why(error)} for _ in request["chats"]]
    return [_one(template, {**request["variables"], **chat}) for chat in request["chats"]]


def _one(template: Any, variables: Mapping[str, Any]) -> dict[str, str]:
    """Render one chat, part by part, so that a text that is too long ends early."""
    parts, length = [], 0
    try:
        for part in template.generate(tools=None, documents=None, **variables):
            length += len(part)
            if length > MOST_CHARACTERS:
                return {"error": f"it makes a text of more than {MOST_CHARACTERS:,} characters"}
            parts.append(part)
        text = "".join(parts)
        text.encode()
    except Exception as error:  # noqa: BLE001  a template can raise anything, as `1 / 0`
        return {"error": _why(error)}
    return {"text": text}


def _why(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"it needs more than {resource.getrlimit(resource.RLIMIT_AS)[0] // 2**20} MiB of memory"
    if isinstance(error, RecursionError):
        return "it calls itself without end"
    line = f" (line {error.lineno})" if isinstance(error, TemplateSyntaxError) else ""
    said = " ".join(str(error).split())[:500]
    if isinstance(error, TemplateError):
        return f"{said or 'it raises an error without a text'}{line}"
    return f"{type(error).__name__}: {said}"


def main() -> None:
    """Read the request, set the limits, write the answer."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    limits = request["limits"]
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu"], limits["cpu"]))
    resource.setrlimit(resource.RLIMIT_AS, (limits["memory"], limits["memory"]))
    answer = json.dumps({"chats": rendered(request)})
    Path(sys.argv[2]).write_text(answer, encoding="utf-8")


if __name__ == "__main__":
    main()

"""A receiver of webhooks on a free port."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.support.http.serving import Handler, serving


@dataclass
class Receiver:
    """A webhook at `url`, and the parsed bodies of the requests, in the order in which they came."""

    url: str = ""
    payloads: list[dict[str, Any]] = field(default_factory=list)


class _Handler(Handler):
    receiver: Receiver

    def do_POST(self) -> None:
        self.receiver.payloads.append(json.loads(self.body()))
        self.send(200)


@contextmanager
def running_receiver() -> Iterator[Receiver]:
    """Run a webhook until the block ends."""
    receiver = Receiver()
    with serving(_Handler, receiver=receiver) as url:
        receiver.url = f"{url}/hook"
        yield receiver

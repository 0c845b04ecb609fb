"""A plain HTTP client for Triton, like curl."""

import json
from contextlib import closing
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from enginery.dev.triton import TritonServer

SECONDS = 60


class TritonHttp:
    """A client of one server."""

    def __init__(self, server: TritonServer) -> None:
        self.server = server

    def connect(self) -> HTTPConnection:
        """A new connection. The caller closes it."""
        place = urlsplit(self.server.url)
        return HTTPConnection(place.hostname or "", place.port, timeout=SECONDS)

    def open(self, path: str, body: object) -> HTTPConnection:
        """Post a body, unchanged or as JSON, and return the connection before anything is read."""
        connection = self.connect()
        connection.request("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode())
        return connection

    def post(self, path: str, body: object) -> tuple[int, str]:
        """Post a body and return the status and the text of the answer."""
        with closing(self.open(path, body)) as connection:
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def get(self, path: str) -> Any:
        """The JSON answer of a path."""
        with closing(self.connect()) as connection:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())

    def answer(self, body: object, model: str = "ensemble") -> dict[str, Any]:
        """All outputs that a model generates for a request."""
        status, text = self.post(f"/v2/models/{model}/generate", body)
        assert status == 200, text
        return dict(json.loads(text))

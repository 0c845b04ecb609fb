"""A plain HTTP client for Triton, like curl."""

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from enginery.dev.triton import TritonServer
from enginery.triton.models.wiring import SAMPLING

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


class FiveModels(TritonHttp):
    """A client of a server with the five models around an engine."""

    def ask(self, text: str, *, model: str = "ensemble", max_tokens: int = 64, **inputs: Any) -> str:
        """The answer to one text."""
        found = self.answer({"text_input": text, "max_tokens": max_tokens, **inputs}, model)["text_output"]
        assert isinstance(found, str)
        return found

    def refusal(self, body: object, model: str = "ensemble") -> str:
        """The error of a request that is the client's fault."""
        status, text = self.post(f"/v2/models/{model}/generate", body)
        assert status == 400, text
        return str(json.loads(text)["error"])

    def stream(self, model: str, **body: object) -> list[str]:
        """The pieces of a streamed answer."""
        status, text = self.post(f"/v2/models/{model}/generate_stream", {"stream": True, "max_tokens": 64, **body})
        assert status == 200, text
        events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]
        assert all("error" not in event for event in events), text
        return [event["text_output"] for event in events]

    def infer(self, inputs: Mapping[str, Sequence[Any]], model: str = "ensemble") -> list[str]:
        """The answers to several texts. Each input has a value, or a list of values, for each text."""
        described = [_described(name, values) for name, values in inputs.items()]
        body = {"inputs": described, "outputs": [{"name": "text_output"}]}
        status, text = self.post(f"/v2/models/{model}/infer", body)
        assert status == 200, text
        return list(json.loads(text)["outputs"][0]["data"])

    def batches(self) -> dict[int, int]:
        """Size -> how many batches of this size Triton has given to the engine."""
        stats = self.get("/v2/models/tensorrt_llm/stats")["model_stats"][0]["batch_stats"]
        return {entry["batch_size"]: entry["compute_infer"]["count"] for entry in stats}


def _described(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """An input of an `infer` request."""
    rows = [value if isinstance(value, list) else [value] for value in values]
    kind = next(
        (kind for kind, names in SAMPLING.items() if name in names), "INT32" if name == "max_tokens" else "BYTES"
    )
    return {"name": name, "shape": [len(rows), len(rows[0])], "datatype": kind, "data": rows}

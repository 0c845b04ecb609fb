"""A stand-in for Triton's control API, for failures that a real server does not have on request.

It reads configurations from a model repository on disk, remembers which models are "loaded", and takes answers from the
engine's `answers.json`. Successful rollouts are tested with a real Triton.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enginery.builds.model_config import BUILD_LABEL, served_version
from tests.support.http.serving import Handler, serving

MODEL_PATH = re.compile(r"/v2/models/(?P<model>\w+)(/versions/(?P<version>\d+))?/(?P<what>\w+)")
CONTROL_PATH = re.compile(r"/v2/repository/models/(?P<model>\w+)/(?P<what>load|unload)")


@dataclass
class FakeTriton:
    """The server's state, and the failures that a test asks for.

    Attributes:
        loaded: model -> version and build label.
        calls: `load NAME` and `unload NAME` in their order.
        refuses: model -> the reason why it does not load, for the build `refuses_build`, or for all if that is None.
        keeps_old: models whose load seems to succeed, although the old version stays.
        spoils: model -> the build whose version of the model does not load.
        lists_after: how many more times the index does not list new models.
        ready: whether the server reports that it is ready.
        generate_status: the status of the answer to `/generate`.
        decoupled: the models that stream.
    """

    repository: Path
    url: str = ""
    loaded: dict[str, tuple[int | None, str | None]] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    refuses: dict[str, str] = field(default_factory=dict)
    refuses_build: str | None = None
    keeps_old: set[str] = field(default_factory=set)
    spoils: dict[str, str] = field(default_factory=dict)
    lists_after: int = 0
    ready: bool = True
    generate_status: int = 200
    decoupled: set[str] = field(default_factory=set)

    def get(self, path: str) -> tuple[int, Any]:
        if path == "/v2/health/ready":
            return (200 if self.ready else 503), None
        if path == "/v2":
            return 200, {"name": "triton", "version": "2.51.0"}
        found = MODEL_PATH.fullmatch(path)
        if found is None:
            return 404, {"error": f"no {path}"}
        model, version = found["model"], found["version"]
        there = self.loaded.get(model)
        if found["what"] == "ready":
            return (200 if there and version in {None, str(there[0])} else 400), None
        if there is None:
            return 400, {"error": f"Request for unknown model: '{model}' is not found"}
        policy = {"model_transaction_policy": {"decoupled": model in self.decoupled}}
        label = {BUILD_LABEL: {"string_value": there[1]}} if there[1] else {}
        return 200, {"name": model, "parameters": label, **policy}

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        found = CONTROL_PATH.fullmatch(path)
        if found:
            self.calls.append(f"{found['what']} {found['model']}")
            return self.load(found["model"]) if found["what"] == "load" else self.unload(found["model"])
        if path == "/v2/repository/index":
            return 200, self.index()
        if path == "/v2/models/ensemble/generate":
            return self.generate(body)
        return 404, {"error": f"no {path}"}

    def index(self) -> list[dict[str, str]]:
        """The loaded models, and the directories in the repository that are not loaded."""
        loaded = [{"name": name, "version": str(there[0])} for name, there in self.loaded.items()]
        if self.lists_after:
            self.lists_after -= 1
            return loaded
        found = {path.name for path in self.repository.glob("*/")}
        return [*loaded, *({"name": name} for name in sorted(found - self.loaded.keys()))]

    def load(self, model: str) -> tuple[int, Any]:
        config = self.repository / model / "config.pbtxt"
        if not config.exists():
            return 400, {"error": f"failed to load '{model}', failed to poll from model repository"}
        version, label = served_version(config.read_text())
        if model in self.refuses and self.refuses_build in {None, label}:
            return 400, {"error": f"load failed for model '{model}': {self.refuses[model]}"}
        if label is not None and self.spoils.get(model) == label:
            return 400, {"error": f"load failed for model '{model}': spoiled"}
        if model not in self.keeps_old:
            self.loaded[model] = (version, label)
        return 200, None

    def unload(self, model: str) -> tuple[int, Any]:
        self.loaded.pop(model, None)
        return 200, None

    def generate(self, body: dict[str, Any]) -> tuple[int, Any]:
        if self.generate_status != 200:
            return self.generate_status, {"error": "cannot just now"}
        version = self.loaded["tensorrt_llm"][0]
        answers = json.loads((self.repository / "tensorrt_llm" / str(version) / "answers.json").read_text())
        return 200, {"text_output": answers.get(body["text_input"], "I do not know")}


class _Handler(Handler):
    triton: FakeTriton

    def do_GET(self) -> None:
        self.answer(*self.triton.get(self.path))

    def do_POST(self) -> None:
        self.answer(*self.triton.post(self.path, json.loads(self.body() or b"{}")))

    def answer(self, status: int, content: Any) -> None:
        self.send(status, b"" if content is None else json.dumps(content).encode())


@contextmanager
def running_fake_triton(repository: Path) -> Iterator[FakeTriton]:
    """Run the stand-in on a free port until the block ends."""
    triton = FakeTriton(repository)
    with serving(_Handler, triton=triton) as triton.url:
        yield triton

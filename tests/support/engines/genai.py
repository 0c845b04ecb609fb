"""Stand-ins for `onnxruntime_genai`, `onnxruntime` and `tokenizers`, to test code that loads engines without them.

They load nothing and answer nothing. A model reports the device that the test chose, and calls are recorded.
"""

import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from enginery.toolchains.drivers import ANSWER_PROMPTS


@dataclass
class FakeGenai:
    """The stand-ins, for our driver and for the served models. Every model reports `device`."""

    device: str
    site: Path = Path("nowhere")
    calls: list[str] = field(default_factory=list)

    def config(self, _engine: str) -> "_Config":
        return _Config(self.calls)

    def model(self, _config: object) -> Any:
        self.calls.append("Model")
        return type("Model", (), {"device_type": self.device})()

    def load_driver(self, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
        """The driver as a module, with these libraries in place of the real ones."""
        self.install(monkeypatch)
        return _imported(ANSWER_PROMPTS, monkeypatch)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put these libraries in place of the real ones."""
        members: dict[str, dict[str, Any]] = {
            "onnxruntime_genai": {"Config": self.config, "Model": self.model},
            "onnxruntime": {
                "__file__": str(self.site / "onnxruntime" / "__init__.py"),
                "preload_dlls": lambda: self.calls.append("preload_dlls"),
            },
            "tokenizers": {"Tokenizer": _Tokenizer},
        }
        for name, contents in members.items():
            module = ModuleType(name)
            vars(module).update(contents)
            monkeypatch.setitem(sys.modules, name, module)


@dataclass
class _Config:
    calls: list[str]

    def overlay(self, _options: str) -> None:
        pass

    def set_provider_option(self, provider: str, option: str, value: str) -> None:
        self.calls.append(f"{provider}.{option}={value}")


class _Tokenizer:
    @staticmethod
    def from_file(path: str) -> str:
        return path


def _imported(script: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    found = importlib.util.spec_from_file_location("driver_under_test", script)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, found.name, module)  # dataclasses need their module there
    found.loader.exec_module(module)
    return module

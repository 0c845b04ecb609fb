"""Checks the arguments of `LLM` like the release: unknown ones are refused."""

import re
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from enginery.releases.flags import arguments, classes
from tests.support.trtllm import facts

PYDANTIC_FROM = "1.0.0"
BETWEEN_FROM = "0.17.0"
BETWEEN = ("backend", "pytorch_backend_config")
ENGINE = "TrtLlmArgs"
PYTORCH = "TorchLlmArgs"


def check(release: str, given: dict[str, Any], *, pytorch: bool) -> None:
    """Refuse arguments that the release does not know."""
    if not facts.at_least(release, PYDANTIC_FROM):
        known = set(facts.fields(release, "LlmArgs"))
        if facts.at_least(release, BETWEEN_FROM):
            known = {*facts.fields("0.16.0", "LlmArgs"), *arguments(release, "LlmArgs").value, *BETWEEN}
        for name in given:
            if name not in known:
                raise TypeError(f"LlmArgs.__init__() got an unexpected keyword argument '{name}'")
        return
    own = PYTORCH if pytorch else ENGINE
    if pytorch:
        _refuse_other_backend(release, given)
    _model(release, own).model_validate(given)
    for name, value in given.items():
        nested = _nested(release, own, name)
        if nested is not None and isinstance(value, dict):
            _model(release, nested).model_validate(value)


def _refuse_other_backend(release: str, given: dict[str, Any]) -> None:
    other = set(arguments(release, ENGINE).value) - set(arguments(release, PYTORCH).value)
    found = [name for name in given if name in other]
    if found:
        text = "The following arguments are specific to TensorRT backend and cannot be used with PyTorch backend"
        raise ValueError(f"{text}: {found}.")


@cache
def _model(release: str, name: str) -> type[BaseModel]:
    fields: dict[str, Any] = dict.fromkeys(arguments(release, name).value, (Any, None))
    if name in {PYTORCH, ENGINE}:
        fields |= {"model": (Any, None), "tokenizer": (Any, None), "backend": (Any, None)}
    return create_model(name, __config__=ConfigDict(extra="forbid", protected_namespaces=()), **fields)


def _nested(release: str, own: str, name: str) -> str | None:
    """The class of arguments that a field has as its type; None for other types and for a choice of several classes."""
    argument = arguments(release, own).value.get(name)
    words = set(re.findall(r"\w+", f"{argument.annotation} {argument.default_factory}")) if argument else set()
    found = words & set(classes())
    return found.pop() if len(found) == 1 else None

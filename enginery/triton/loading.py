"""Loads single models of a model repository into a server, and makes sure that the server took what it was given."""

import time
from collections.abc import Collection, Mapping
from typing import Any

from enginery.errors import RolloutError
from enginery.triton.client import TritonClient
from enginery.triton.placement import BUILD_LABEL, CONFIG, ServingRepository, current_configs, served_version

ENSEMBLE = "ensemble"
LOAD_ORDER = ("tensorrt_llm", "preprocessing", "postprocessing", "tensorrt_llm_bls", ENSEMBLE)
"""The engine first: when it does not fit, nothing else has changed yet. The ensemble last: it takes the requests."""
ATTEMPTS = 4
CLOCK_SECONDS = 1.1
"""S3 tells times in whole seconds, and Triton loads only what is newer than what it has."""


def build_label(config: Mapping[str, Any]) -> str | None:
    """The build that a loaded model's configuration names."""
    label = config.get("parameters", {}).get(BUILD_LABEL, {}).get("string_value")
    return str(label) if label else None


def load_model(client: TritonClient, repository: ServingRepository, model: str, config_text: str) -> None:
    """Write a model's configuration and load the model, until the server serves just that.

    Triton may answer that it has loaded a model although it kept an older one, so it is asked.

    Raises:
        RolloutError: with Triton's reason when the model does not load.
    """
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(CLOCK_SECONDS)
        if attempt or repository.read(f"{model}/{CONFIG}") != config_text.encode():
            repository.write(f"{model}/{CONFIG}", config_text.encode())
        client.load(model)
        if is_loaded(client, model, config_text):
            return
    raise RolloutError(
        f"model {model} was loaded, but the server serves another version of it",
        subject=client.url,
        remedy=f"check that the server reads {repository.where} and is in explicit model-control mode",
    )


def is_loaded(client: TritonClient, model: str, config_text: str) -> bool:
    """Whether a server serves the version and build that a configuration asks for."""
    version, label = served_version(config_text)
    loaded = client.model_config(model)
    return loaded is not None and build_label(loaded) == label and client.ready(model, version)


def leaving(repository: ServingRepository, staying: Collection[str]) -> tuple[str, ...]:
    """The models of builds before that are not among those of the coming one, in the order to unload them.

    What people have put there by hand stays.
    """
    others = [model for model in reversed(LOAD_ORDER) if model not in staying]
    configs = current_configs(repository, others)
    return tuple(model for model, text in configs.items() if served_version(text)[1] is not None)

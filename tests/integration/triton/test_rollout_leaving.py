# ruff: noqa: F811  fixtures are imported
"""Tests of a build with fewer models than the previous build: the others are unloaded and removed."""

from pathlib import Path

import pytest

from enginery.builds.manifest import Manifest
from enginery.builds.model_config import served_version
from enginery.core.errors import RolloutError
from enginery.core.files import remove_tree
from enginery.triton.client import TritonClient
from enginery.triton.placement import open_repository
from tests.support.registry.builds import ANSWERS, QUESTION, Build, write_repository
from tests.support.s3.fixtures import bucket, server  # noqa: F401
from tests.support.triton.fake import running_fake_triton
from tests.support.triton.rollouts import FIRST, ORDER, SECOND, THIRD, Site, address, site, triton  # noqa: F401

TWO = ("tensorrt_llm", "ensemble")
LEAVING = ["tensorrt_llm_bls", "postprocessing", "preprocessing"]


class SmallBuild(Build):
    """A build of two models, as for the LLM API."""

    def write(self, directory: Path) -> dict[str, Path]:
        inputs = super().write(directory)
        for model in LEAVING:
            remove_tree(inputs["model_repository"] / model)
        return inputs


def small(site: Site, build_id: str = SECOND, *, broken: bool = False) -> Manifest:
    recorded = {QUESTION: "something else"} if broken else None
    return SmallBuild(build_id=build_id, answers=ANSWERS, recorded=recorded).publish(site.address)


def models(site: Site) -> set[str]:
    return {path.name for path in site.triton.repository.iterdir() if path.is_dir()}


def test_models_that_the_new_build_does_not_have_are_unloaded_and_removed(site: Site) -> None:
    site.roll_out(site.publish(FIRST))
    site.triton.calls.clear()
    site.roll_out(small(site))
    assert site.triton.calls == [*(f"load {model}" for model in TWO), *(f"unload {model}" for model in LEAVING)]
    assert site.triton.loaded == dict.fromkeys(TWO, (2, SECOND))
    assert models(site) == set(TWO)


def test_a_server_that_is_started_again_finds_only_whole_models(site: Site) -> None:
    site.roll_out(site.publish(FIRST))
    site.roll_out(small(site))
    site.roll_out(small(site, THIRD))
    for config in site.triton.repository.glob("*/config.pbtxt"):
        version, label = served_version(config.read_text())
        assert label == THIRD
        assert (config.parent / str(version)).is_dir()


def test_the_build_with_more_models_can_come_back(site: Site) -> None:
    first = site.publish(FIRST)
    site.roll_out(first)
    site.roll_out(small(site))
    site.roll_out(first)
    assert site.triton.loaded == dict.fromkeys(ORDER, (3, FIRST))
    assert site.ask() == ANSWERS[QUESTION]


def test_nothing_is_unloaded_where_the_new_build_fails(site: Site) -> None:
    site.roll_out(site.publish(FIRST))
    site.triton.calls.clear()
    with pytest.raises(RolloutError, match=f"{FIRST} serves again"):
        site.roll_out(small(site, broken=True))
    assert not [call for call in site.triton.calls if call.startswith("unload")]
    assert site.triton.loaded == dict.fromkeys(ORDER, (1, FIRST))


def test_what_was_unloaded_is_loaded_again_when_another_server_cannot_be_reached(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    unload = TritonClient.unload

    def failing(client: TritonClient, name: str) -> None:
        if client.url == site.triton.url:
            return unload(client, name)
        raise RolloutError("the Triton server cannot be reached", subject=client.url, remedy="start it")

    with running_fake_triton(site.triton.repository) as other:
        urls = (site.triton.url, other.url)
        site.roll_out(site.publish(FIRST), *urls)
        monkeypatch.setattr(TritonClient, "unload", failing)
        with pytest.raises(RolloutError, match=f"cannot be reached; {FIRST} serves again"):
            site.roll_out(small(site), *urls)
        assert site.triton.loaded == other.loaded == dict.fromkeys(ORDER, (1, FIRST))
    assert models(site) == set(ORDER)
    assert site.versions() == {"1"}


def test_what_people_put_there_by_hand_stays(site: Site) -> None:
    write_repository(site.triton.repository, {QUESTION: "by hand"})
    for model in ORDER:
        site.triton.load(model)
    site.roll_out(small(site))
    assert models(site) == set(ORDER)
    assert set(site.triton.loaded) == set(ORDER)


def test_they_are_also_removed_from_a_bucket(site: Site) -> None:
    repository = open_repository(f"{site.address}/served")
    for model, name in (("preprocessing", "config.pbtxt"), ("preprocessing", "1/model.py"), ("preprocessing_b", "x")):
        repository.write(f"{model}/{name}", b"")
    repository.remove("preprocessing")
    assert repository.entries() == {("preprocessing_b", "x")}

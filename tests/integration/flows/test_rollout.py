# ruff: noqa: F811  fixtures are imported
"""Tests of the rollout and rollback flows on a real Prefect server, with a fake Triton."""

import httpx
import pytest
from prefect.settings import PREFECT_API_URL

from enginery.core.errors import RegistryError
from enginery.pipeline.flows.rollout import roll_back, roll_out
from enginery.triton.rollout import serving_build
from tests.support.s3.fixtures import bucket, server  # noqa: F401
from tests.support.triton.rollouts import FIRST, SECOND, Site, address, site, triton  # noqa: F401

pytestmark = pytest.mark.usefixtures("prefect_api")


def artifacts() -> list[str]:
    """The descriptions of all rollout artifacts, newest last."""
    wanted = {"artifacts": {"key": {"like_": "rollout-"}}, "sort": "UPDATED_DESC"}
    found = httpx.post(f"{PREFECT_API_URL.value()}/artifacts/filter", json=wanted).raise_for_status().json()
    return [artifact["description"] for artifact in reversed(found)]


def test_a_build_is_rolled_out_and_back(site: Site) -> None:
    repository = str(site.triton.repository)
    for build in (FIRST, SECOND):
        site.publish(build)
        summary = roll_out(build, site.address, [site.triton.url], repository)
        assert (summary.build_id, summary.before) == (build, None)
    back = roll_back(site.address, repository)
    assert (back.build_id, back.before) == (FIRST, SECOND)
    assert [result.endpoint for result in back.endpoints] == [site.triton.url]
    assert serving_build(site.triton.url) == FIRST
    assert f"`{FIRST}` serves; before it was `{SECOND}`" in artifacts()[-1]


def test_a_build_that_is_not_published_is_refused_before_anything_is_done(site: Site) -> None:
    with pytest.raises(RegistryError, match="no build"):
        roll_out("nothing", site.address, [site.triton.url], str(site.triton.repository))
    assert site.triton.calls == []

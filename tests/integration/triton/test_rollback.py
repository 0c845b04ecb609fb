# ruff: noqa: F811  fixtures are imported
"""Tests of the rollback: the build from before the last rollout serves again."""

import pytest

from enginery.core.errors import RolloutError
from enginery.triton.rollout import RolledBack, roll_back, serving_build
from tests.support.s3.fixtures import bucket, server  # noqa: F401
from tests.support.triton.rollouts import FIRST, SECOND, THIRD, Site, address, site, triton  # noqa: F401


def back(site: Site, *endpoints: str) -> RolledBack:
    return roll_back(site.registry, str(site.triton.repository), endpoints, site.lines.append)


def test_the_build_before_serves_again_at_the_endpoints_of_the_last_rollout(site: Site) -> None:
    site.roll_out(site.publish(FIRST, "the first"))
    site.roll_out(site.publish(SECOND, "the second"))
    done = back(site)
    assert (done.manifest.build_id, done.replaced) == (FIRST, SECOND)
    assert [result.endpoint for result in done.results] == [site.triton.url]
    assert serving_build(site.triton.url) == FIRST
    assert site.ask() == "the first"
    assert f"rolling back from {SECOND} to {FIRST} at {site.triton.url}" in site.lines


def test_rolling_back_twice_is_back_where_it_began(site: Site) -> None:
    for build in (FIRST, SECOND, THIRD):
        site.roll_out(site.publish(build))
    assert [back(site).manifest.build_id for _ in range(2)] == [SECOND, THIRD]
    assert serving_build(site.triton.url) == THIRD


def test_there_is_no_way_back_from_the_first_rollout(site: Site) -> None:
    site.roll_out(site.publish(FIRST))
    with pytest.raises(RolloutError, match=f"nothing served here before {FIRST}"):
        back(site)
    assert serving_build(site.triton.url) == FIRST


def test_a_repository_that_nothing_was_rolled_out_to_is_reported(site: Site) -> None:
    with pytest.raises(RolloutError, match="nothing was ever rolled out here"):
        back(site)

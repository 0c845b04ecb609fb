"""Every machine gets the same plan from a store, or an error."""

from pathlib import Path

import pytest

from enginery.core.errors import StoreError
from enginery.pipeline.fleet import load_plan, save_plan
from enginery.store import Store, open_store
from tests.support.plans.plan import planned, spec_data


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def file_of(store: Store, tmp_path: Path, digest: str) -> Path:
    return tmp_path / "store" / "shelf" / "plans" / f"{digest}.json"


def test_a_plan_comes_back_as_it_was(store: Store) -> None:
    plan = planned()
    assert load_plan(save_plan(plan, store), store) == plan


def test_the_same_plan_is_kept_once_and_another_beside_it(store: Store) -> None:
    first = save_plan(planned(), store)
    assert save_plan(planned(), store) == first
    assert save_plan(planned(spec_data(name="other")), store) != first


def test_a_machine_with_another_store_gets_an_error_with_a_remedy(store: Store, tmp_path: Path) -> None:
    digest = save_plan(planned(), store)
    with pytest.raises(StoreError, match="not in this machine's store") as caught:
        load_plan(digest, open_store(str(tmp_path / "another")))
    assert "s3://bucket/prefix" in caught.value.remedy


def test_a_plan_that_was_changed_is_refused_and_kept_again(store: Store, tmp_path: Path) -> None:
    plan = planned()
    digest = save_plan(plan, store)
    file_of(store, tmp_path, digest).write_text("{}")
    with pytest.raises(StoreError, match="was changed"):
        load_plan(digest, store)
    assert load_plan(save_plan(plan, store), store) == plan


def test_a_plan_of_another_version_has_its_own_error(store: Store) -> None:
    from enginery.core.digests import bytes_digest

    data = b'{"plan_schema": 99}'
    store.shelf().put(f"plans/{bytes_digest(data)}.json", data, after=None)
    with pytest.raises(StoreError, match="of another version"):
        load_plan(bytes_digest(data), store)

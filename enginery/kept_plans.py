"""Plans in a store, so that all machines of a fleet work from one plan: named by its digest, it never changes."""

from pydantic import ValidationError

from enginery.digests import bytes_digest
from enginery.errors import StoreError
from enginery.plan import Plan
from enginery.store import Store

PLANS = "plans"
REMEDY = "give the build a store that all its machines share, such as s3://bucket/prefix"


def keep_plan(plan: Plan, store: Store) -> str:
    """Put a plan into the store and return its digest, by which it is found again."""
    data = plan.model_dump_json().encode()
    digest, shelf = bytes_digest(data), store.shelf()
    found = shelf.get(_name(digest))
    if found is None or found.data != data:
        shelf.put(_name(digest), data, after=found.tag if found else None)
    return digest


def kept_plan(digest: str, store: Store) -> Plan:
    """The plan of that digest.

    Raises:
        StoreError: when the store does not have it, or has something else in its place.
    """
    found = store.shelf().get(_name(digest))
    if found is None:
        raise StoreError("the plan is not in this machine's store", subject=digest, remedy=REMEDY)
    if bytes_digest(found.data) != digest:
        raise StoreError("the plan in the store was changed", subject=digest, remedy="run the whole build again")
    try:
        return Plan.model_validate_json(found.data)
    except ValidationError as error:
        remedy = "let the same version of Enginery run on all machines"
        raise StoreError(
            f"the plan is of another version: {error.errors()[0]['msg']}", subject=digest, remedy=remedy
        ) from error


def _name(digest: str) -> str:
    return f"{PLANS}/{digest}.json"

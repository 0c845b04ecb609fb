"""Prepares Prefect's server for a fleet: the work pools, and storage for results that all machines can reach.

    python -m flows.prepare_fleet infra/pools.yaml --results s3://bucket/prefix

Run it again when the pools file has changed: it updates what exists.
"""

import argparse
import asyncio
import json
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.workers.utilities import get_default_base_job_template_for_infrastructure_type

from enginery.core.errors import EngineryError, SpecError, UsageError
from enginery.core.late import late
from enginery.core.progress import Log
from enginery.core.s3 import Address
from enginery.pipeline import WorkPool, read_pools

if TYPE_CHECKING:
    import prefect_aws
else:
    prefect_aws = late("prefect_aws")

RESULTS_BLOCK = "enginery-results"


def prepare_fleet(pools_file: Path, results: str | None, log: Log) -> None:
    """Make or update the work pools of a pools file, their queues, and the block for results.

    `results` is `s3://bucket/prefix` for Prefect's small results. If it is None, the server's setting stays.

    Raises:
        SpecError: when the pools file or a job template has mistakes. Then nothing was changed.
        UsageError: when a pool or the storage cannot be made as it is described.
    """
    pools = read_pools(pools_file)
    templates = {name: _template(pool, pools_file) for name, pool in pools.work_pools.items()}
    queues = dict.fromkeys((one.work_pool, one.work_queue) for one in pools.pools if one.work_queue != "default")
    with get_client(sync_client=True) as client:
        for name, pool in pools.work_pools.items():
            _make_pool(pool, templates[name], client)
            log(f"work pool {name}: {pool.type}, {pool.concurrency} at once")
        for name, queue in queues:
            with suppress(ObjectAlreadyExists):
                client.create_work_queue(queue, work_pool_name=name)
        if results is not None:
            client.update_server_default_result_storage(results_block(results))
            log(f"results of all runs: {results}, by the block s3-bucket/{RESULTS_BLOCK}")


def _template(pool: WorkPool, pools_file: Path) -> dict[str, Any]:
    if pool.job_template is None:
        found = asyncio.run(get_default_base_job_template_for_infrastructure_type(pool.type))
        if found is None:
            remedy = f"install prefect-{pool.type}, or give the pool a job_template"
            raise UsageError(f"no job template is known for {pool.type}", subject=pool.work_pool, remedy=remedy)
        return found
    path = pools_file.parent / pool.job_template
    try:
        template: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError([f"{pool.work_pool}.job_template: {error}"], subject=str(pools_file)) from error
    return template


def _make_pool(pool: WorkPool, template: dict[str, Any], client: SyncPrefectClient) -> None:
    wanted = {"base_job_template": template, "concurrency_limit": pool.concurrency}
    try:
        existing = client.read_work_pool(pool.work_pool)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=pool.work_pool, type=pool.type, **wanted))
        return
    if existing.type != pool.type:
        remedy = f"delete it first: prefect work-pool delete {pool.work_pool}"
        problem = f"is of type {existing.type}, not {pool.type}, and that cannot be changed"
        raise UsageError(problem, subject=f"work pool {pool.work_pool}", remedy=remedy)
    client.update_work_pool(pool.work_pool, WorkPoolUpdate(**wanted))


def results_block(address: str) -> UUID:
    """Save the block that keeps results in S3, and return its id.

    The block has no credentials, no endpoint and no addressing style: each machine's own AWS settings have them.

    Raises:
        UsageError: when the address is not valid, or prefect-aws is missing.
    """
    place = Address.parse(address)
    if find_spec("prefect_aws") is None:
        raise UsageError("results in S3 need prefect-aws", remedy="install enginery[fleet] on every machine")
    credentials = prefect_aws.AwsCredentials()
    block = prefect_aws.S3Bucket(bucket_name=place.bucket, bucket_folder=place.prefix, credentials=credentials)
    identifier: UUID = block.save(RESULTS_BLOCK, overwrite=True)
    return identifier


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m flows.prepare_fleet", description=__doc__.splitlines()[0])
    parser.add_argument("pools", type=Path, metavar="POOLS", help="the pools file, such as infra/pools.yaml")
    parser.add_argument("--results", metavar="S3", help="where Prefect keeps the results of all runs: s3://…")
    arguments = parser.parse_args()
    try:
        prepare_fleet(arguments.pools, arguments.results, print)
    except EngineryError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

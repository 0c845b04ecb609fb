#!/usr/bin/env bash
# Makes what a new stack needs before it can work: the bucket, the work pools, the deployments. It can run again.
set -euo pipefail
python - <<'PYTHON'
from botocore.exceptions import ClientError

from enginery.core.s3 import Address, shared_client as client

bucket = Address.parse("s3://enginery").bucket
try:
    client().create_bucket(Bucket=bucket)
except ClientError as error:
    if error.response["Error"]["Code"] != "BucketAlreadyOwnedByYou":
        raise
PYTHON
python -m flows.prepare_fleet infra/pools.yaml --results s3://enginery/results
prefect --no-prompt deploy --all

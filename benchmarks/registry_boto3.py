"""Sends or fetches a directory with boto3's `upload_file` and `download_file` in threads, for `registry.py`."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
from botocore.config import Config

from benchmarks.registry_files import BUCKET

THREADS = 10
"""The number of threads that boto3 itself uses for the parts of one file."""


def main() -> None:
    """The command: its arguments are `send DIRECTORY PREFIX` or `bring DIRECTORY PREFIX`."""
    work, directory, prefix = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    retries = {"mode": "standard", "total_max_attempts": 5}
    config = Config(max_pool_connections=50, retries=retries, s3={"addressing_style": "path"})  # type: ignore[arg-type]
    s3 = boto3.client("s3", config=config)

    def send(file: Path) -> None:
        s3.upload_file(str(file), BUCKET, f"{prefix}/{file.relative_to(directory).as_posix()}")

    def bring(key: str) -> None:
        place = directory / key.removeprefix(f"{prefix}/")
        place.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(BUCKET, key, str(place))

    with ThreadPoolExecutor(THREADS) as pool:
        if work == "send":
            list(pool.map(send, [path for path in directory.rglob("*") if path.is_file()]))
        else:
            pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/")
            list(pool.map(bring, [entry["Key"] for page in pages for entry in page["Contents"]]))


if __name__ == "__main__":
    main()

"""One Prefect task for each stage: retries, time limits, caching and names. The work itself is in `enginery`."""

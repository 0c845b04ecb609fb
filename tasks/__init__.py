"""One Prefect task for each stage: retries, time limits, caching and names. What is done is in `enginery`."""

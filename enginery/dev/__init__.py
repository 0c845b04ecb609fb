"""Local services to play with: a Prefect server with its UI, an S3 API, a Triton server. Loopback only."""

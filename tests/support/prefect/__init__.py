"""Prefect for tests: a real server with its database and its UI, deployments, and workers as a fleet has them."""

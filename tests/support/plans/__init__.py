"""Specs, requests and plans for tests, and a pipeline whose steps are tiny."""

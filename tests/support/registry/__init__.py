"""Builds, manifests and signatures for tests of the registry, and what happens to them there."""

"""Keeps a registry in order: lists its objects, verifies and audits builds, and prunes old ones."""

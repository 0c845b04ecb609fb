"""Checks converted checkpoints before anything is built of them."""

"""Checks converted checkpoints before an engine is built from them, or they are served."""

"""Models for tests: directories and checkpoints with the right files, and the configurations of public models."""

"""The files of the stand-in: checkpoints, engines and timing caches, with the layout of the release."""

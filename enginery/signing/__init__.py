"""Signatures of published builds: made with a key at publishing, required of a build by whoever uses it."""

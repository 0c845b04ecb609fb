"""Records and outputs of steps for tests of the store."""

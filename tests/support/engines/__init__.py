"""Engines for tests: made by real toolchains or by stand-ins, and compared with the models they were made from."""

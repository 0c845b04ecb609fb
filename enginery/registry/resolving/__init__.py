"""Finds the one build of a model that fits a query and a machine. Read `query`, then `compatibility` and `resolve`."""

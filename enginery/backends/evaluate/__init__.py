"""Evaluations: runs an evaluator of the user's choice on an engine, and reads the score that it writes as JSON."""

"""The gates: each compares what was measured with limits, and gives a verdict."""

"""Measures the parts of Enginery that are claimed to be fast, and compares them with other tools."""

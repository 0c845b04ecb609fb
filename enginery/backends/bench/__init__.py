"""Measuring how fast an engine is: the recipe and the step, and what becomes of the driver's figures."""

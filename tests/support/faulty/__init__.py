"""Planted faults: faulty models, damaged engines, and a runtime that answers wrongly."""

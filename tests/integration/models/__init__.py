"""Tests of models against an installed transformers."""

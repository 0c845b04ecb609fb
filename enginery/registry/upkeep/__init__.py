"""Keeping a registry in order: an inventory of its objects, verification, audit and pruning."""

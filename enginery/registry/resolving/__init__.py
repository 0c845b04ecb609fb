"""Finding the one build of a model that fits a query and a machine: `query`, `compatibility`, then `resolve`."""

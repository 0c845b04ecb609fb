"""Triton for tests: stand-ins for the server and for what its models use, a client, and rollouts to them."""

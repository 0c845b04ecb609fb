"""The release watch: what a new release of a backend means for each target of a fleet, and what to do about it."""

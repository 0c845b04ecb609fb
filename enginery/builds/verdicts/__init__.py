"""What follows from measurements: results of evaluations, comparisons with the channel's build, and attestations."""

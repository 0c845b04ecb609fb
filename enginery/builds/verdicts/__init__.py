"""What is measured of a build and what follows from it: references, predictions, scores, comparisons, attestations."""

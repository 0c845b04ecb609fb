"""The gates: one file judges one gate, from what earlier steps measured. The gates step asks them all."""

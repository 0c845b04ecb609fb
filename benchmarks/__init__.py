"""What Enginery claims to be fast, measured against what people use instead."""

"""Bringing a published build into a local directory: `filling` gets the files, `pull` does the whole."""

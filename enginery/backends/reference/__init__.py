"""The reference: what the original weights of a model answer and predict. Gates compare engines with it.

`recipe` plans its step, `step` runs it with transformers or takes it from a published build, `texts` reads the texts,
`runnable` says which models transformers cannot run, and `cost` estimates memory and time.
"""

"""What the scripts of releases need to be told of a model, and what they refuse in their code.

`variants` has the arguments and the name of the weights' directory, from which some scripts guess what the model is.
`refused` has the findings for what a script would refuse, fail at or change after it has parsed its arguments.
"""

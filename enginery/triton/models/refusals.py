"""The error of a request that cannot be served as it stands."""


class RequestError(ValueError):
    """What is wrong with a request; the message begins with the name of the input."""

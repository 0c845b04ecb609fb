"""What is shared with the other served models: in the archive they lie one directory up, under another root."""

from ..refusals import RequestError  # noqa: TID252  see above
from ..requests import refuse_unknown_parameters, tensors, texts  # noqa: TID252
from ..responses import fail  # noqa: TID252
from ..text import INCOMPLETE  # noqa: TID252
from ..tokens import version_directory  # noqa: TID252

__all__ = ["INCOMPLETE", "RequestError", "fail", "refuse_unknown_parameters", "tensors", "texts", "version_directory"]

"""A stand-in for a TensorRT-LLM release's commands and modules. It is no TensorRT-LLM: it computes nothing.

It takes the flags the recorded facts say a release takes, reads and writes files laid out as the release's are, and
fails in the ways the real one fails. What it answers is scripted. `make_release` makes one.
"""

from tests.support.trtllm.home import Call
from tests.support.trtllm.stand_in import StandIn, make_release

__all__ = ["Call", "StandIn", "make_release"]

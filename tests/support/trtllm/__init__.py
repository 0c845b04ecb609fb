"""A stand-in for the commands and modules of a TensorRT-LLM release. It is not TensorRT-LLM: it computes nothing.

It takes the recorded flags of a release, reads and writes files with the release's layout, and fails in the ways in
which the real one fails. Its answers come from a control file. `make_release` makes a stand-in.
"""

from tests.support.trtllm.home import Call
from tests.support.trtllm.stand_in import StandIn, make_release

__all__ = ["Call", "StandIn", "make_release"]

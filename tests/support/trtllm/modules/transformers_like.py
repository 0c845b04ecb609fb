"""The only part of `transformers` that drivers for TensorRT-LLM use: the tokenizer."""

from types import ModuleType

from tests.support.trtllm.modules.tokens import Tokens


def install(module: ModuleType, _directory: str) -> None:
    vars(module).update(AutoTokenizer=Tokens, PreTrainedTokenizerFast=Tokens, __version__="0")

"""Where weights come from: the Hugging Face Hub, a directory, or S3.

A plan downloads no weights. It only lists the files; a Hub revision is resolved to its commit:

    resolved = resolve(spec.source)
    for file in resolved.files: ...           # names, sizes and digests, as the source states them
"""

from typing import TYPE_CHECKING

from enginery.core.late import door

if TYPE_CHECKING:
    from enginery.sources.downloading import download, parameters, require_whole, resolve
    from enginery.sources.model_files import (
        CONFIGS,
        TOKENIZER_PARTS,
        TOKENIZERS,
        ResolvedSource,
        SourceFile,
        SourceKind,
        is_license,
    )
else:
    __getattr__ = door(__name__, __file__)

"""What is known of models: the shape that a `config.json` describes, and the tensors of the weight files.

Nothing here downloads or converts. Sources, plans and checks of checkpoints ask this room:

    facts = ModelFacts.from_config(json.loads((directory / "config.json").read_bytes()))
    tensors, problems = read_all(directory)   # name -> number format and shape
    faults = whole_weights_faults(directory)  # tensors that are missing, double, of another shape or quantized
"""

from typing import TYPE_CHECKING

from enginery.core.late import door

if TYPE_CHECKING:
    from enginery.models.chat.degeneration import Degenerate, foreign_script, is_empty, loop_in
    from enginery.models.chat.findings import chat_findings, chat_notes
    from enginery.models.chat.prompts import SentPrompt, SentPrompts, is_chat, messages_of, sent_prompts
    from enginery.models.chat.templates import (
        ChatTemplate,
        chosen_template,
        find_templates,
        is_template,
        template_files,
        template_of,
    )
    from enginery.models.facts import DEFAULT_ROPE_THETA, ModelFacts, config_problems
    from enginery.models.headers import FLOATS, Tensor, read_all, read_tensors
    from enginery.models.kinds import ANSWERS_NO_TEXT, ModelKind, architecture_named, kind_of, reads_more_than_text
    from enginery.models.quantized import BESIDE, MODELOPT_FILE, SAID_IN, with_quantization
    from enginery.models.reports import LoadReport
    from enginery.models.size import PLAUSIBLE, Weights, cached_numbers, has_shape, parameter_count, weights_of
    from enginery.models.tensors import WeightsFault
    from enginery.models.weights import CONFIG, INDEX, SINGLE, WeightFiles, whole_weights_faults
else:
    __getattr__ = door(__name__, __file__)

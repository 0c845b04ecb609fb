"""Prints what the installed transformers make of chats, with each tokenizer directory that is named."""

import json
import sys

from transformers import AutoTokenizer

chats = json.loads(sys.argv[1])
found = {}
for directory in sys.argv[2:]:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    for name, messages in chats.items():
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            ids = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
            ids = ids if isinstance(ids, list) else ids["input_ids"]
            found[f"{directory} {name}"] = {"text": text, "ids": ids}
        except Exception as error:  # noqa: BLE001
            found[f"{directory} {name}"] = {"error": str(error)}
print("RENDERED " + json.dumps(found))  # noqa: T201

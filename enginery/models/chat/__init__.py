"""Chat templates: finds a model's template, makes messages into the text that is sent, and judges what comes back.

A model's template is Jinja code from a stranger. It is rendered in a sandbox, in a process of its own with limits:

    template = template_of(weights)                       # None for a model without one
    sent = sent_prompts(weights, spec.validation)         # one for each prompt of the spec
    sent[0].text, sent[0].add_special_tokens              # what the tokenizer gets

Other rooms import these names from `enginery.models`.
"""

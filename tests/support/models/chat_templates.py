"""Chat templates written for the tests, in the shapes of popular model families."""

from typing import Any

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>'"
    " + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

LLAMA3 = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set opening = messages[0]['content'] | trim %}
    {%- set rest = messages[1:] %}
{%- else %}
    {%- set opening = '' %}
    {%- set rest = messages %}
{%- endif %}
{%- if strftime_now is defined and false %}{{ strftime_now('%d %b %Y') }}{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' + opening + '<|eot_id|>' }}
{%- for one in rest %}
    {{- '<|start_header_id|>' + one['role'] + '<|end_header_id|>\\n\\n' + one['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL = """\
{{ bos_token }}
{%- for message in messages %}
  {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
    {{- raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
  {%- endif %}
  {%- if message['role'] == 'user' %}
    {{- '[INST] ' + message['content'] + ' [/INST]' }}
  {%- elif message['role'] == 'assistant' %}
    {{- ' ' + message['content'] + eos_token }}
  {%- else %}
    {{- raise_exception('Only user and assistant roles are supported') }}
  {%- endif %}
{%- endfor %}
"""

GEMMA = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
{% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}
"""

PHI = """\
{% for message in messages %}{% if message.role not in ['system', 'user', 'assistant'] %}{% continue %}{% endif %}
{{ '<|' + message.role + '|>\\n' ~ message.content ~ '<|end|>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""

ZEPHYR = """\
{% for message in messages %}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token }}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

QWEN = """\
{%- if tools %}
    {{- '<|im_start|>system\\nTools:\\n' }}{% for tool in tools %}{{ tool | tojson(indent=1) }}{% endfor %}<|im_end|>
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=-1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if ns.last < 0 and message.role == 'user' %}{%- set ns.last = index %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'assistant' and '</think>' in message.content %}
        {%- set said = message.content.split('</think>')[-1].lstrip('\\n') %}
        {{- '<|im_start|>assistant\\n' + said + '<|im_end|>\\n' }}
    {%- elif message.role != 'system' or not loop.first %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""

DEEPSEEK = """\
{%- if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif -%}
{%- set ns = namespace(system='') -%}
{%- for message in messages if message['role'] == 'system' %}{% set ns.system = ns.system + message['content'] %}\
{% endfor -%}
{{- bos_token }}{{ ns.system }}
{%- for message in messages %}
{%- if message['role'] == 'user' %}{{ '<\uff5cUser\uff5c>' + message['content'] }}{% endif %}
{%- if message['role'] == 'assistant' %}{{ '<\uff5cAssistant\uff5c>' + message['content'] + eos_token }}{% endif %}
{%- endfor -%}
{%- if add_generation_prompt %}{{ '<\uff5cAssistant\uff5c><think>\\n' }}{% endif %}"""

VICUNA = """\
{% if messages[0].role == 'system' %}{{ messages[0].content + ' ' }}{% set messages = messages[1:] %}{% endif -%}
{% for message in messages %}{{ message.role | upper }}: {{ message.content }}{{ ' ' if message.role == 'user' \
else eos_token }}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"""

MACROS = """\
{% macro turn(role, text) %}<|im_start|>{{ role }}
{{ text }}<|im_end|>
{% endmacro %}
{% for m in messages %}{{ turn(m.role, m.content) }}{% if m.role == 'user' and loop.index > 9 %}{% break %}{% endif %}
{% endfor %}
{{ messages | tojson }}{{ dict(a=1) | tojson(separators=(',', ':')) }}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

GENERATION = """\
{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant
{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}
{% else %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endif %}{% endfor %}{{ unknown_variable }}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

SHAPES = {
    "chatml": CHATML,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "phi": PHI,
    "zephyr": ZEPHYR,
    "qwen": QWEN,
    "deepseek": DEEPSEEK,
    "vicuna": VICUNA,
    "macros": MACROS,
    "generation": GENERATION,
}
"""Name of a shape -> the template."""

NOT_ACCEPTED = {
    "mistral": "Roles must alternate user/assistant/user/assistant/...",
    "gemma": "System role not supported",
}
"""Shapes that refuse a system message -> what they say."""

PLAIN = "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}"
"""A template for the example model, which knows no chats: it gives the text as the tokenizer does."""


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


CHATS: dict[str, list[dict[str, Any]]] = {
    "question": [message("user", "  What is the capital of France? <|im_end|> & <b>\n")],
    "system": [message("system", "Be brief."), message("user", "Ça va? ニャー 🙂")],
    "several": [
        message("user", "Hi"),
        message("assistant", "<think>hm</think>\n\nHello!"),
        message("user", "2+2?\r\n\ttab"),
    ],
}

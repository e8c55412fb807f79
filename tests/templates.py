"""Chat templates as the model families write them: what each adds, trims, moves, drops and refuses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """How a family of models writes a chat as text.

    `special_tokens` are the markers that are one token each, `bos` and `eos` among them; `bos` is None where the
    tokenizer has none. `has_system` says whether the text of a system message reaches the prompt: where it does not,
    the template refuses it or drops it. `has_tools` says whether tools, calls and their results reach it.
    """

    name: str
    template: str
    special_tokens: tuple[str, ...]
    bos: str | None
    eos: str
    has_system: bool
    has_tools: bool


# Contents are trimmed.
_LLAMA3 = r"""
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

# There is a system turn even where there is no system message; tools are listed in the first user turn; what a tool
# gave is written as JSON, in quotes where it is a string.
_LLAMA31 = r"""
{{- bos_token }}
{%- set system = '' %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}
{%- if tools %}
    {{- 'Environment: ipython\n' }}
{%- endif %}
{{- 'Cutting Knowledge Date: December 2023\nToday Date: ' + date_string | default('26 Jul 2024') + '\n\n' }}
{{- system + '<|eot_id|>' }}
{%- for message in messages %}
    {%- if message['role'] in ['tool', 'ipython'] %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\n\n' }}
        {{- message['content'] | tojson if message['content'] is iterable else message['content'] }}
    {%- elif message['tool_calls'] %}
        {%- if message['tool_calls'] | length != 1 %}
            {{- raise_exception('One tool call at a time, please.') }}
        {%- endif %}
        {%- set call = message['tool_calls'][0]['function'] %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
        {{- '{"name": "' + call['name'] + '", "parameters": ' + call['arguments'] | tojson + '}' }}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
        {%- if tools and loop.first %}
            {{- 'Answer by calling one of these functions, as {"name": ..., "parameters": ...}.\n\n' }}
            {%- for tool in tools %}
                {{- tool | tojson(indent=4) + '\n\n' }}
            {%- endfor %}
        {%- endif %}
        {{- message['content'] | trim }}
    {%- endif %}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

# Every user turn begins with a BOS token; the first holds the system text; nothing announces the answer.
_LLAMA2 = r"""
{%- set system = '' %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] != ['user', 'assistant'][loop.index0 % 2] %}
        {{- raise_exception('User and assistant must take turns, and the user begins.') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- set content = system + message['content'] if loop.first else message['content'] %}
        {{- bos_token + '[INST] ' + content | trim + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message['content'] | trim + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}
"""

# The last user turn holds the system text, so a longer chat does not begin with what a shorter one was.
_MISTRAL = r"""
{{- bos_token }}
{%- set system = '' %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content'] + '\n\n' %}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- for message in messages %}
    {%- if message['role'] != ['user', 'assistant'][loop.index0 % 2] %}
        {{- raise_exception('User and assistant must take turns, and the user begins.') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + (system if loop.revindex <= 2 else '') + message['content'] + '[/INST]' }}
    {%- else %}
        {{- ' ' + message['content'] | trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""

# A system message is refused; the assistant is called model.
_GEMMA = r"""
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}
        {{- raise_exception('There is no system role.') }}
    {%- elif message['role'] != ['user', 'assistant'][loop.index0 % 2] %}
        {{- raise_exception('User and assistant must take turns, and the user begins.') }}
    {%- endif %}
    {{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\n' }}
    {{- message['content'] | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<start_of_turn>model\n' }}
{%- endif %}
"""

# Thoughts before the last question are left out; those since are written even where they are empty, if they are last.
_QWEN3 = r"""
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\n\n' }}
    {%- endif %}
    {{- '# Tools\n\nThese functions can be called:\n<tools>' }}
    {%- for tool in tools %}
        {{- '\n' + tool | tojson }}
    {%- endfor %}
    {{- '\n</tools>\n\nWrite each call as:\n<tool_call>\n{"name": ..., "arguments": ...}\n</tool_call><|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set last = namespace(question=messages | length - 1) %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- set last.question = loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = content.split('</think>')[0].split('<think>')[-1] %}
            {%- set content = content.split('</think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.index0 > last.question and (loop.last or thought) %}
            {{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- set call = call.function or call %}
            {%- if content or not loop.first %}
                {{- '\n' }}
            {%- endif %}
            {{- '<tool_call>\n{"name": "' + call.name + '", "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or loop.previtem.role != 'tool' %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' + content + '\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""

# What does not ask for an answer ends with an EOS token; contents stay as they are.
_PHI3 = r"""
{%- for message in messages if message['role'] in ['system', 'user', 'assistant'] %}
    {{- '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}
{%- endfor %}
{{- '<|assistant|>\n' if add_generation_prompt else eos_token }}
"""

# Any role is written, and nothing is added, trimmed or moved.
_CHATML = r"""
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""

# A system message is dropped without a word; the headings are no special tokens.
_ALPACA = r"""
{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {{- '### Instruction:\n' + message['content'] | trim + '\n\n' }}
    {%- elif message['role'] == 'assistant' %}
        {{- '### Response:\n' + message['content'] | trim + eos_token + '\n\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '### Response:\n' }}
{%- endif %}
"""

# A content is a list of parts, of which the first is read; that of a string is empty, and nobody is told.
_IDEFICS3 = r"""
{{- bos_token }}
{%- for message in messages %}
    {{- message['role'] | capitalize + ': ' }}
    {{- message['content'][0]['text'] }}
    {{- '<end_of_utterance>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- 'Assistant:' }}
{%- endif %}
"""

# Nothing stands between turns; system messages go to the front, where the last one wins.
_DEEPSEEK = r"""
{{- bos_token }}
{{- (messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | list or ['']) | last }}
{%- for message in messages %}
    {%- if message['role'] == 'user' %}
        {{- '<｜User｜>' + message['content'] }}
    {%- elif message['role'] == 'assistant' %}
        {{- '<｜Assistant｜>' + message['content'].split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<｜Assistant｜>' }}
{%- endif %}
"""

_LLAMA3_TOKENS = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
_CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
_PHI3_TOKENS = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
_GEMMA_TOKENS = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
_DEEPSEEK_TOKENS = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>")

FAMILIES = (
    Family("llama3", _LLAMA3, _LLAMA3_TOKENS, "<|begin_of_text|>", "<|eot_id|>", True, False),
    Family("llama3.1", _LLAMA31, _LLAMA3_TOKENS, "<|begin_of_text|>", "<|eot_id|>", True, True),
    Family("llama2", _LLAMA2, ("<s>", "</s>"), "<s>", "</s>", True, False),
    Family("mistral", _MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]"), "<s>", "</s>", True, False),
    Family("gemma", _GEMMA, _GEMMA_TOKENS, "<bos>", "<eos>", False, False),
    Family("qwen3", _QWEN3, ("<|endoftext|>", *_CHATML_TOKENS), None, "<|im_end|>", True, True),
    Family("phi3", _PHI3, _PHI3_TOKENS, None, "<|endoftext|>", True, False),
    Family("chatml", _CHATML, _CHATML_TOKENS, None, "<|im_end|>", True, False),
    Family("alpaca", _ALPACA, ("<s>", "</s>"), "<s>", "</s>", False, False),
    Family(
        "idefics3", _IDEFICS3, ("<|im_start|>", "<end_of_utterance>"), "<|im_start|>", "<end_of_utterance>", True, False
    ),
    Family("deepseek", _DEEPSEEK, _DEEPSEEK_TOKENS, _DEEPSEEK_TOKENS[0], _DEEPSEEK_TOKENS[1], True, False),
)

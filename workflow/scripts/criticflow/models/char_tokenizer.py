"""A character-level tokenizer that loads through ``AutoTokenizer`` without code of ours."""

from __future__ import annotations

import string
from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, END, UNKNOWN = "<|pad|>", "<|end|>", "<|unknown|>"
ROLES = ("system", "user", "assistant")
SPECIAL = (PAD, END, UNKNOWN, *(f"<|{role}|>" for role in ROLES))
TAGS = ("<answer>", "</answer>", "<think>", "</think>")
CHARACTERS = [chr(code) for code in range(0x20, 0x7F)] + ["\n"]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


TOOLS_TEMPLATE = (
    "{% if tools %}{{ '<|system|>' }}{{ tools | tojson }}{{ '<|end|>' }}{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'tool' %}"
    "{{ '<|user|><tool_response>\n' + message['content'] + '\n</tool_response><|end|>' }}"
    "{% else %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""The same with tools."""


def char_tokenizer(max_positions: int, tools: bool = False) -> PreTrainedTokenizerFast:
    """One token per printable ASCII character and newline, one per tag, one per role.

    Args:
        tools: whether the chat template knows of tools.

    The tags of :data:`TAGS` are ordinary tokens, so that a decoder that skips special tokens keeps
    them.
    Padding, the end of a message and the roles are special. Other characters become one unknown
    token each.
    """
    assert set(string.printable) - set("\t\r\v\f") == set(CHARACTERS)
    vocabulary = {text: index for index, text in enumerate([*SPECIAL, *TAGS, *CHARACTERS])}
    split = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made = word_level_tokenizer(vocabulary, split, TAGS, max_positions, decoders.Fuse())
    if tools:
        made.chat_template = TOOLS_TEMPLATE
    return made


def word_level_tokenizer(
    vocabulary: dict[str, int],
    split: pre_tokenizers.PreTokenizer,
    tags: Sequence[str],
    max_positions: int,
    decoder: decoders.Decoder | None = None,
) -> PreTrainedTokenizerFast:
    """A tokenizer of whole pieces of text, with our chat template.

    Args:
        vocabulary: id of each piece, :data:`SPECIAL` and the tags included.
        split: text to pieces.
        tags: pieces that are found in a text before it is split.
        max_positions: tokens that the model takes.
        decoder: pieces to text; None: they are joined by spaces.
    """
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = split
    if decoder is not None:
        backend.decoder = decoder
    backend.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in SPECIAL]
    )
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in tags])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[f"<|{role}|>" for role in ROLES],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=max_positions,
        padding_side="left",
    )

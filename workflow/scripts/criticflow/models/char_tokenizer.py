"""A character-level tokenizer that loads through ``AutoTokenizer`` without code of ours."""

from __future__ import annotations

import string

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, END, UNKNOWN = "<|pad|>", "<|end|>", "<|unknown|>"
ROLES = ("system", "user", "assistant")
TAGS = ("<answer>", "</answer>", "<think>", "</think>")
CHARACTERS = [chr(code) for code in range(0x20, 0x7F)] + ["\n"]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def char_tokenizer(max_positions: int) -> PreTrainedTokenizerFast:
    """One token per printable ASCII character and newline, one per tag, one per role.

    The tags of :data:`TAGS` are ordinary tokens, so that a decoder that skips special tokens keeps
    them.
    Padding, the end of a message and the roles are special. Other characters become one unknown
    token each.
    """
    assert set(string.printable) - set("\t\r\v\f") == set(CHARACTERS)
    special = [PAD, END, UNKNOWN, *(f"<|{role}|>" for role in ROLES)]
    vocabulary = {text: index for index, text in enumerate([*special, *TAGS, *CHARACTERS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in special]
    )
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in TAGS])
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

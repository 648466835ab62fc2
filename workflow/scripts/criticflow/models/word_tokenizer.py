"""A tokenizer of whole words that loads through ``AutoTokenizer`` without code of ours."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from criticflow.models.char_tokenizer import SPECIAL, word_level_tokenizer

TAGS = tuple(
    f"<{slash}{tag}>" for tag in ("search", "information", "answer", "think") for slash in ("", "/")
)

LINE_BREAKS = ("\n", "\n\n")
"""verl asks Qwen's tokenizers for a token of a line break."""


def word_tokenizer(texts: Iterable[str], max_positions: int) -> PreTrainedTokenizerFast:
    """One token per word or punctuation mark of ``texts``, one per tag of a dialogue, one per role.

    Spaces are no tokens: decoded tokens are joined by single spaces. One line break is a token, and
    so are two. The tags are ordinary tokens, so that a decoder that skips special tokens keeps
    them; padding, the end of a message and the roles are special. A word that is not in ``texts``
    becomes the unknown token.
    """
    split = pre_tokenizers.Split(Regex(r"\n+|\w+|[^\w\s]"), "removed", invert=True)
    words: set[str] = set()
    for text in texts:
        words.update(word for word, _ in split.pre_tokenize_str(text))
    tokens = [*SPECIAL, *TAGS, *LINE_BREAKS, *sorted(words - {*LINE_BREAKS})]
    vocabulary = {text: index for index, text in enumerate(tokens)}
    return word_level_tokenizer(vocabulary, split, TAGS, max_positions)

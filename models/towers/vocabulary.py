"""A small byte-level BPE vocabulary fitted to a corpus, stored as any Hugging Face tokenizer is.

A 49k-word table costs a quarter of a small model's training step in AdamW alone; a fitted one is a tenth of that, and
byte-level pieces mean that no text of a later night holds an unknown token.
"""

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

PADDING, END_OF_TEXT = "<pad>", "<eot>"
PADDING_ID, END_OF_TEXT_ID = 0, 1
VOCABULARY_NAME, SETTINGS_NAME = "tokenizer.json", "tokenizer_config.json"


def fit_vocabulary(texts: Iterable[str], size: int, *, rare: bool = False) -> Tokenizer:
    """A tokenizer of at most `size` tokens that ends every text with `<eot>`; the order of `texts` has no influence.

    With `rare`, words of a single text become tokens, too, while there is room.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=size,
        min_frequency=1 if rare else 2,
        special_tokens=[PADDING, END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(set(texts)), trainer)
    # Truncation leaves room for what the template adds, so the end of a long text is cut and <eot> stays.
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END_OF_TEXT}", special_tokens=[(END_OF_TEXT, END_OF_TEXT_ID)]
    )
    return tokenizer


def add_words(tokenizer: Tokenizer, words: Iterable[str], size: int) -> None:
    """Makes whole words tokens of their own, in place and in their order, until there are `size`; those that are one
    token already are left out."""
    room = size - tokenizer.get_vocab_size()
    pieces = (word for word in words if len(tokenizer.encode(word, add_special_tokens=False).ids) > 1)
    # With the space before it, as the vocabulary's own words have theirs.
    added = [AddedToken(word, single_word=True, lstrip=True, normalized=True) for word in islice(pieces, max(0, room))]
    tokenizer.add_tokens(added)


def save_vocabulary(tokenizer: Tokenizer, directory: Path, context_length: int) -> None:
    """Writes the two files that `transformers.AutoTokenizer` reads."""
    tokenizer.save(str(directory / VOCABULARY_NAME))
    settings = json.dumps(_settings(context_length), indent=2) + "\n"
    (directory / SETTINGS_NAME).write_text(settings, encoding="utf-8")


def saved_vocabulary(directory: Path, context_length: int) -> Tokenizer | None:
    """What `save_vocabulary` wrote, cutting texts to `context_length`; None where another tokenizer lies there."""
    vocabulary, settings = directory / VOCABULARY_NAME, directory / SETTINGS_NAME
    if not (vocabulary.is_file() and settings.is_file()):
        return None
    if json.loads(settings.read_bytes()) != _settings(context_length):
        return None
    tokenizer = Tokenizer.from_file(str(vocabulary))
    tokenizer.enable_truncation(context_length)
    return tokenizer


def _settings(context_length: int) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "padding_side": "right",
        "truncation_side": "right",
        "pad_token": PADDING,
        "eos_token": END_OF_TEXT,
    }

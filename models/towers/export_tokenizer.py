"""open_clip's tokenizers as files for the library `tokenizers`, which queries load in milliseconds."""

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors

from pairloom.models.towers.text_cleaning import CLEANINGS, Cleaning


def exported_tokenizer(tokenizer: Any) -> Tokenizer:
    """What gives the ids of an open_clip tokenizer, cut or padded to its context length, for a text that was cleaned.

    ValueError for one that isn't written down in such a file, or that draws lots.
    """
    if type(tokenizer).__name__ == "SimpleTokenizer" and tokenizer.reduction_fn is None:
        made = _built_in(tokenizer)
        made.enable_truncation(tokenizer.context_length)
        made.enable_padding(length=tokenizer.context_length, pad_id=0)
        return made
    fast = getattr(getattr(tokenizer, "tokenizer", None), "backend_tokenizer", None)
    plain = type(tokenizer).__name__ == "HFTokenizer" and not (tokenizer.tokenizer_mode or tokenizer.strip_sep_token)
    if not plain or fast is None:
        raise ValueError(f"a {type(tokenizer).__name__} of this kind is torch's alone")
    own = tokenizer.tokenizer
    made = Tokenizer.from_str(fast.to_str())
    made.enable_truncation(tokenizer.context_length, direction=own.truncation_side)
    made.enable_padding(
        direction=own.padding_side, length=tokenizer.context_length, pad_id=own.pad_token_id, pad_token=own.pad_token
    )
    return made


def cleaning_of(tokenizer: Any) -> Cleaning:
    """How an open_clip tokenizer cleans a text. ValueError where that is none of the ways known."""
    name: str = getattr(tokenizer.clean_fn, "__name__", "").removeprefix("_clean_")
    for known in CLEANINGS:
        if name == known:
            return known
    raise ValueError(f"it cleans texts by {name or tokenizer.clean_fn!r}")


def _built_in(tokenizer: Any) -> Tokenizer:
    """CLIP's own byte-pair encoding, whose last piece of a word carries `</w>`."""
    merges = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)
    specials = [tokenizer.decoder[each] for each in tokenizer.all_special_ids]
    made = Tokenizer(models.BPE(tokenizer.encoder, merges, end_of_word_suffix="</w>"))
    pattern = tokenizer.pat.pattern.removeprefix("|".join(specials) + "|")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(f"(?i:{pattern})"), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.add_special_tokens([AddedToken(each, normalized=False) for each in specials])
    first, last = specials[0], specials[1]
    made.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(first, tokenizer.sot_token_id), (last, tokenizer.eot_token_id)]
    )
    return made

"""The vocabulary: a few hundred words, and single characters for whatever else a caption may hold.

CLIP's own 49,408 tokens would make the token table nine tenths of a model of this size, of which training touches one row in a
hundred: a benchmark for tricks with unused rows. This one is stored beside the model as a Hugging Face tokenizer, which open_clip
and salmu read from a run directory.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterable
from functools import cache

from salmu_mini import captions, words
from salmu_mini.portraits import HAIRS, SHIRTS

PAD, UNKNOWN, START = "<pad>", "<unknown>", "<start>"
END = "<end>"  # the largest id: open_clip's text encoder reads at the position of the largest
_WORD = re.compile(r"[a-z]+")
_MORE = (
    "a b c d e f g h with without hair hat glasses wearing beard moustache smiling calm person somebody someone small tiny big large"
    " above below left right of and the on ground background picture ab"
)


def _texts() -> Iterable[str]:
    """Everything that captions are put together from."""
    yield from (wording for several in captions.SENSITIVE.values() for wording in several)
    for wordings in (captions.PORTRAITS, captions.WHO, captions.SINGLE, captions.SEVERAL, captions.PROMPTS, captions.TAILS):
        yield from wordings
    for group in (
        words.COLOURS,
        words.SHAPES,
        words.GROUNDS,
        words.FIRST[:18],
        words.LAST[:18],
        words.CITIES,
        words.JOBS,
        words.HOSTS,
    ):
        yield from group
    yield from (words.plural(shape) for shape in words.SHAPES)
    yield from (*words.COUNTS.values(), *HAIRS, *SHIRTS, _MORE)


@cache
def entries() -> tuple[str, ...]:
    """Every token in the order of its id."""
    plain = (re.sub(r"\{[^}]*\}", " ", text).lower() for text in _texts())
    known = sorted({word for text in plain for word in _WORD.findall(text)})
    characters = [*string.digits, *string.ascii_lowercase, *"@.,:+-'&()/!?#"]
    inner = [f"##{character}" for character in string.ascii_lowercase]
    return tuple(dict.fromkeys([PAD, UNKNOWN, START, *characters, *inner, *known, END]))


@cache
def tokenizer_files() -> dict[str, str]:
    """File name -> content of a Hugging Face tokenizer.

    Text is lower-cased and cut at spaces, punctuation and between digits; a word that is not in the vocabulary is spelt.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    ids = {token: number for number, token in enumerate(entries())}
    made = Tokenizer(models.WordPiece(ids, unk_token=UNKNOWN, max_input_chars_per_word=64))
    made.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()])
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits(individual_digits=True)]
    )
    made.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, ids[START]), (END, ids[END])]
    )
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": PAD, "unk_token": UNKNOWN, "bos_token": START, "eos_token": END,
        "clean_up_tokenization_spaces": False,
    }  # fmt: skip
    return {
        "tokenizer.json": json.dumps(json.loads(made.to_str()), indent=1, sort_keys=True),
        "tokenizer_config.json": json.dumps(settings, indent=1, sort_keys=True),
    }

"""The tokenizer that lies in a model's folder, as open_clip reads it from there; run without any code of the folder's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from salmu_core.errors import BadCheckpoint

#: Hugging Face's names: the tokenizer itself, and what its special tokens are.
TOKENIZER, SETTINGS = "tokenizer.json", "tokenizer_config.json"
_LARGEST = 64_000_000  # bytes; the largest multilingual vocabularies have about 20 MB


def read_tokenizer(folder: Path) -> dict[str, str] | None:
    """The content of a folder's tokenizer files by name; None where there is no `tokenizer.json`.

    Raises:
        BadCheckpoint: a file that is too large or is not text.
    """
    if not (folder / TOKENIZER).is_file():
        return None
    found = {}
    for name in (TOKENIZER, SETTINGS):
        path = folder / name
        if not path.is_file():
            continue
        if path.stat().st_size > _LARGEST:
            raise BadCheckpoint(f"'{path}' has {path.stat().st_size:,} bytes; a tokenizer has at most {_LARGEST:,}.")
        try:
            found[name] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadCheckpoint(f"'{path}' cannot be read: {error}.") from error
    return found


def fingerprint(files: Mapping[str, str]) -> str:
    """Hash of everything that decides the tokens."""
    content = "\0".join(f"{name}\0{files[name]}" for name in sorted(files))
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


class FolderTokenizer:
    """What open_clip's `HFTokenizer` does with the files of a folder, without importing transformers and without its class names,
    which could point to code.

    Args:
        files: content of `tokenizer.json` and, where there is one, of `tokenizer_config.json`.
        context_length: tokens per caption; longer ones are cut before the end token, shorter ones padded.

    Raises:
        BadCheckpoint: the files are not a tokenizer.
    """

    def __init__(self, files: Mapping[str, str], context_length: int) -> None:
        from open_clip.tokenizer import get_clean_fn
        from tokenizers import Tokenizer

        try:
            settings = json.loads(files.get(SETTINGS, "{}"))
            self._tokenizer = Tokenizer.from_str(files[TOKENIZER])
        except Exception as error:  # the library raises bare exceptions
            raise BadCheckpoint(f"The model's {TOKENIZER} is not a tokenizer: {error}.") from error
        pad = settings.get("pad_token") if isinstance(settings, dict) else None
        pad = pad.get("content") if isinstance(pad, dict) else pad
        number = self._tokenizer.token_to_id(pad) if isinstance(pad, str) else None
        if number is None:
            raise BadCheckpoint(f"The model's {SETTINGS} names no pad_token that its {TOKENIZER} has.")
        self._tokenizer.enable_truncation(context_length)
        self._tokenizer.enable_padding(length=context_length, pad_id=number, pad_token=pad)
        self._clean = get_clean_fn("whitespace")

    @property
    def size(self) -> int:
        """Tokens of the vocabulary."""
        return int(self._tokenizer.get_vocab_size())

    def __call__(self, texts: list[str]) -> Int[Tensor, "batch context"]:
        """Token ids of captions."""
        encoded = self._tokenizer.encode_batch([self._clean(text) for text in texts])
        return torch.tensor([item.ids for item in encoded], dtype=torch.long)


@lru_cache(maxsize=8)
def _made(files: tuple[tuple[str, str], ...], context_length: int) -> FolderTokenizer:
    return FolderTokenizer(dict(files), context_length)


def folder_tokenizer(files: Mapping[str, str], context_length: int) -> FolderTokenizer:
    """A tokenizer, made once."""
    return _made(tuple(sorted(files.items())), context_length)


def forget_folder_tokenizers() -> None:
    """Make them anew from now on."""
    _made.cache_clear()

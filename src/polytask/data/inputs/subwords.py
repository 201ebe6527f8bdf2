"""Parts of words as tokens: a byte-pair encoding trained on the training part, or a pretrained tokenizer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa

from polytask.data.encoded import Ragged
from polytask.data.inputs.text_cells import WordLists
from polytask.data.inputs.tokenizer import NO_WORD, WordTokenizer
from polytask.errors import UserError, require

log = logging.getLogger("polytask")

BYTES = 256
SPECIAL = ("[PAD]", "[UNK]")

_PADDING = ("[PAD]", "<pad>", "<|pad|>", "<PAD>", "<|endoftext|>", "</s>")
_UNKNOWN = ("[UNK]", "<unk>", "<UNK>", "<|unk|>")
_MASK = ("[MASK]", "<mask>", "<MASK>", "<|mask|>")


class Subwords(WordTokenizer):
    """A tokenizer of the library `tokenizers`.

    Args:
        text: The tokenizer as JSON, as its library writes it.
        length: The greatest number of tokens, special ones included; longer texts are cut.
        padding: The padding token's id; None: found by its usual names.

    Raises:
        UserError: `text` is no tokenizer, or has no padding token.
    """

    def __init__(self, text: str, length: int, padding: int | None = None) -> None:
        library = _library()
        try:
            self._tokenizer = library.Tokenizer.from_str(text)
        except Exception as error:  # The library raises nothing narrower.
            raise UserError(f"This is not a tokenizer of the library 'tokenizers': {error}") from error
        self.text = text
        self.length = length
        names: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocabulary = max(names.values()) + 1
        settings = self._tokenizer.padding
        found = settings["pad_id"] if padding is None and settings else padding
        self.padding = _first(names, _PADDING) if found is None else found
        if self.padding is None:
            raise UserError(f"The tokenizer has no padding token (looked for {', '.join(_PADDING)}). Add one to it.")
        unknown = _first(names, _UNKNOWN)
        self.unknown = self.padding if unknown is None else unknown
        self.mask = _first(names, _MASK)
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = frozenset({number for number, token in added.items() if token.special})
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(length)

    @property
    def special(self) -> frozenset[int]:
        """See `Tokenizer`."""
        return super().special | self._special

    def encode(self, texts: pa.Array) -> Ragged:
        """See `Tokenizer.encode`."""
        return Ragged.of([encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts.to_pylist())])

    def encode_pairs(self, first: pa.Array, second: pa.Array) -> Ragged:
        """See `Tokenizer.encode_pairs`: as the tokenizer itself puts two texts together, where it does."""
        if not self._tokenizer.num_special_tokens_to_add(True):
            return super().encode_pairs(first, second)
        pairs = zip(first.to_pylist(), second.to_pylist(), strict=True)
        found = self._tokenizer.encode_batch([(one, two) if two.strip() else one for one, two in pairs])
        return _marked(found, [_text_numbers(encoding.sequence_ids) for encoding in found])

    def encode_words(self, words: WordLists) -> Ragged:
        """See `WordTokenizer.encode_words`."""
        flat = words.words.to_pylist()
        ends = np.cumsum(words.lengths).tolist()
        lists = [flat[end - length : end] for end, length in zip(ends, words.lengths.tolist(), strict=True)]
        found = self._tokenizer.encode_batch(lists, is_pretokenized=True)
        return _marked(found, [[NO_WORD if word is None else word for word in each.word_ids] for each in found])


def train_bpe(texts: Iterator[Sequence[str]], vocabulary: int, lowercase: bool) -> str:
    """A byte-level byte-pair encoding (Sennrich et al., ACL 2016): no text has unknown tokens.

    Args:
        texts: The training texts, in parts.
        vocabulary: The greatest number of tokens.
        lowercase: Whether upper and lower case are one.

    Returns:
        The tokenizer as JSON. Id 0 is padding, id 1 stands for a text without tokens.
    """
    library = _library()
    normalizers, byte_level = library.normalizers, library.pre_tokenizers.ByteLevel
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            *([normalizers.Lowercase()] if lowercase else []),
            normalizers.Replace(library.Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )
    tokenizer.pre_tokenizer = byte_level(add_prefix_space=True)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=byte_level.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    text: str = tokenizer.to_str()
    return text


def load_pretrained(name: str, length: int) -> Subwords:
    """A tokenizer from a `tokenizer.json`, a folder, or the Hugging Face hub.

    Args:
        name: A path or a name.
        length: The greatest number of tokens; reduced, with a message, to what the pretrained model can read.

    Raises:
        UserError: There is none.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return Subwords(path.read_text(encoding="utf-8"), length)
    transformers = require("transformers", extra="text", purpose=f"The pretrained tokenizer '{name}'")
    try:
        loaded = transformers.AutoTokenizer.from_pretrained(str(path) if path.is_dir() else name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()
        raise UserError(
            f"There is no tokenizer '{name}': it is neither 'bpe', 'words', a tokenizer.json, a folder with one, nor "
            f"a name that the Hugging Face hub (or its local cache) gives out: {reason[0] if reason else error}"
        ) from error
    if not getattr(loaded, "is_fast", False):
        raise UserError(f"The tokenizer '{name}' has no tokenizer.json, which is what Polytask reads. Choose another.")
    if loaded.model_max_length < length:
        log.warning(
            "The tokenizer '%s' is for texts of at most %d tokens; length is reduced from %d to that.",
            name,
            loaded.model_max_length,
            length,
        )
        length = int(loaded.model_max_length)
    padding = loaded.pad_token_id if loaded.pad_token_id is not None else loaded.eos_token_id
    return Subwords(loaded.backend_tokenizer.to_str(), length, padding)


def _marked(encodings: Sequence[Any], marks: Sequence[Sequence[int]]) -> Ragged:
    """int32 `[total, 2]`: the ids, and a mark of each."""
    ids = Ragged.of([encoding.ids for encoding in encodings])
    flat = np.fromiter(chain.from_iterable(marks), dtype=np.int32, count=len(ids.values))
    return Ragged(np.stack([ids.values, flat], axis=1), ids.lengths)


def _text_numbers(texts: Sequence[int | None]) -> list[int]:
    """The number of the text of each token; a special token goes with what is before it."""
    found, number = [], 0
    for text in texts:
        number = number if text is None else text
        found.append(number)
    return found


def _first(names: dict[str, int], candidates: Sequence[str]) -> Any:
    return next((names[name] for name in candidates if name in names), None)


def _library() -> ModuleType:
    return require("tokenizers", extra="text", purpose="The tokenizer (all but 'words')")

"""Text in a column, as token ids."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, cast, get_args

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from polytask.data.encoded import Encoded, Encoding, Ragged
from polytask.data.inputs.draws import Draws
from polytask.data.inputs.hashed_words import HashedWords
from polytask.data.inputs.input import Input, rows_at_once
from polytask.data.inputs.ngram_vocabulary import NgramVocabulary
from polytask.data.inputs.subwords import BYTES, SPECIAL, Subwords, load_pretrained, train_bpe
from polytask.data.inputs.text_cells import optional_texts, texts_of, words_of
from polytask.data.inputs.token_weights import TokenCounts, TokenWeights, Weighting, distinct, from_text, to_text
from polytask.data.inputs.tokenizer import NO_WORD, Tokenizer, WordTokenizer
from polytask.data.table import Table
from polytask.data.target import Target
from polytask.errors import UserError, closest, listing
from polytask.shapes import TextShape

log = logging.getLogger("polytask")

_LEARNING_BYTES = 64 * 2**20
"""About how much memory the hashes take that a vocabulary is learned from at a time."""


class TextInput(Input):
    """Text as token ids, `{"ids": int64 [B, T], "mask": bool [B, T]}` with T the batch's longest text.

    With two columns, a row is a pair of texts, one after the other, and `"segments": int64 [B, T]` says which token is
    of which: pretrained tokenizers put the two together in their own way ([CLS] a [SEP] b [SEP]); for the others the
    encoders mark the tokens of either. A row without a second text is a single one. Where both do not fit into
    `length`, the longer one is cut. With `words`, `"words": int64 [B, T]` is the number of the word that each token is
    a part of, -1 for none; with `affixes`, a token has several ids, `[B, T, parts]`, whose embeddings are added.

    With M `weights` there is `"weights": float32 [B, T, M]` beside them, and each text has each of its tokens once, in
    no order of the text's. Each weighting of a text is divided by its Euclidean length.

    - `idf`: `log(N / n_j)` for a token j that n_j of the N training texts have (Sparck Jones, "A Statistical
      Interpretation of Term Specificity and Its Application in Retrieval", Journal of Documentation, 1972).
    - `log_ratio`: how much a token says about the classes, from the log-count ratios of naive Bayes (Wang and Manning,
      "Baselines and Bigrams: Simple, Good Sentiment and Topic Classification", ACL 2012). With p_cj the share of
      token j in the tokens of class c's training texts, and q_cj that in the other classes' texts, all counts plus 1,
      it is the root mean square over the classes of `log(p_cj / q_cj)`: for two classes their absolute log ratio. The
      sign is left to the network. Classification tasks whose classes have the same names are counted as one; where
      there are several such sets of names, it is the root mean square over these.

    Args:
        column: The column; two for pairs of texts, of which the second may be empty.
        tokenizer: `bpe`: parts of words, learned from the training part. `words`: words and n-grams of words as
            hashes, as fastText does; nothing is learned but with `min_count`. Else a pretrained tokenizer: a
            `tokenizer.json`, a folder with one, or a name on the Hugging Face hub.
        vocabulary: The greatest number of tokens of `bpe`.
        length: The greatest number of tokens (of `words`: of words); longer texts are cut.
        lowercase: Whether upper and lower case are one; a pretrained tokenizer decides that itself.
        ngrams: The longest n-gram of `words`; a text's n-grams follow its words.
        buckets: How many ids `words` has without `min_count`; different words may fall on the same id.
        min_count: Gives `words` a learned vocabulary in place of buckets: each word and n-gram that so many training
            texts have, with an id of its own. All others are left out.
        weights: How much each token counts, for encoders that read it (`bag`); one or several of `idf` and
            `log_ratio`, see above. None: they are not weighted.
        words: Whether the texts are given in words, for tasks that tag words (`tagging`): each cell is a list of words,
            or text that is split at white space.
        affixes: Gives each word of `words` further ids beside its own: of its beginnings and its ends of 1 to so many
            characters, and of its shape (capitals, digits), so that words tell what they are by how they are formed.
            Needs `words: true` and `tokenizer: words`.

    Raises:
        UserError: A parameter is out of range.
    """

    modality: ClassVar[Literal["text"]] = "text"

    def __init__(
        self,
        column: str | Sequence[str],
        *,
        tokenizer: str = "bpe",
        vocabulary: int = 16_000,
        length: int = 256,
        lowercase: bool = True,
        ngrams: int = 1,
        buckets: int = 100_000,
        min_count: int | None = None,
        weights: Sequence[Weighting] = (),
        words: bool = False,
        affixes: int = 0,
    ) -> None:
        smallest = BYTES + len(SPECIAL)
        if tokenizer == "bpe" and vocabulary < smallest:
            raise UserError(
                f"The vocabulary is {vocabulary}, but every byte is a token: it must be at least {smallest}."
            )
        limited = {"length": length, "ngrams": ngrams, "buckets": buckets, "min_count": min_count}
        for name, value in limited.items():
            if value is not None and value < 1:
                raise UserError(f"{name} is {value}, but must be at least 1.")
        if ngrams > 1 and tokenizer != "words":
            raise UserError(
                f"ngrams is {ngrams}, but only the tokenizer 'words' makes n-grams, and this is '{tokenizer}'."
            )
        if min_count is not None and tokenizer != "words":
            raise UserError(
                f"min_count is {min_count}, but only the tokenizer 'words' has it, and this is '{tokenizer}'. "
                "Leave it out, or set tokenizer: words."
            )
        _check_weights(weights)
        self.texts = (column,) if isinstance(column, str) else tuple(column)
        self._check_form(words=words, affixes=affixes, tokenizer=tokenizer, weights=weights)
        if words and (ngrams > 1 or min_count is not None or weights):
            raise UserError(
                "With words: true, every word is a token of its own or several, so ngrams, min_count and weights, "
                "which add tokens or leave some out, cannot be set. Leave them out; see affixes and tokenizer: bpe."
            )
        self.column = column
        self.words = words
        self.affixes = affixes
        self.tokenizer = tokenizer
        self.vocabulary = vocabulary
        self.length = length
        self.lowercase = lowercase
        self.ngrams = ngrams
        self.buckets = buckets
        self.min_count = min_count
        self.weights = tuple(weights)
        self._fitted: Tokenizer | None = None
        self._weights: TokenWeights | None = None

    @property
    def named(self) -> tuple[str, ...]:
        """See `Input.named`."""
        return self.texts

    @property
    def shape(self) -> TextShape:
        """See `Input.shape`."""
        tokenizer = self._tokenizer
        return TextShape(
            tokenizer.vocabulary,
            tokenizer.length,
            tokenizer.padding,
            len(self.weights),
            parts=tokenizer.parts,
            segments=len(self.texts),
        )

    def fit(self, table: Table, rows: np.ndarray, targets: Mapping[str, Target]) -> None:
        """See `Input.fit`."""
        if self.tokenizer == "words":
            self._fitted = self._hashed_words() if self.min_count is None else self._learn_ngrams(table, rows)
        elif self.tokenizer == "bpe":
            texts = (texts.to_pylist() for texts in self._all_texts(table, rows))
            self._fitted = Subwords(train_bpe(texts, self.vocabulary, self.lowercase), self.length)
        else:
            self._fitted = load_pretrained(self.tokenizer, self.length)
        if self.weights:
            self._weights = self._learn_weights(table, rows, targets)

    def encode(self, part: pa.Table, rows: np.ndarray, table: Table) -> Encoding:
        """See `Input.encode`."""
        tokens = self._tokens(part, rows, table)
        empty = tokens.lengths == 0
        if empty.any():
            tokens = tokens.filled(empty, self._blank())
        return Encoding(tokens, empty=int(empty.sum()))

    def collate(self, values: Encoded, rows: np.ndarray, draws: Draws | None) -> dict[str, Tensor]:
        """See `Input.collate`."""
        assert isinstance(values, Ragged)
        ids, mask = values.padded(self._tokenizer.padding)
        if ids.ndim == 3:
            return self._with_marks(ids, mask)
        if self._weights is None:
            return {"ids": ids, "mask": mask}
        weights = torch.zeros(*mask.shape, len(self.weights))
        weights[mask] = torch.from_numpy(self._weights.of(values))
        return {"ids": ids, "mask": mask, "weights": weights}

    @property
    def row_bytes(self) -> int:
        """See `Input.row_bytes`."""
        tokenizer = self._tokenizer
        return 4 * tokenizer.length * (tokenizer.parts + (self.words or len(self.texts) > 1)) + 16

    @property
    def hiding(self) -> int:
        """The id that hides a token; after `fit`: that of a mask where the tokenizer has one, else of unknown ones.

        The tokenizers that are learned here have none, and no use for that of unknown tokens but in texts without any.
        """
        tokenizer = self._tokenizer
        return tokenizer.unknown if tokenizer.mask is None else tokenizer.mask

    @property
    def special(self) -> frozenset[int]:
        """The ids that stand for no part of a text; after `fit`."""
        return self._tokenizer.special

    def state_dict(self) -> dict[str, Any]:
        """See `Input.state_dict`."""
        tokenizer = self._tokenizer
        state: dict[str, Any] = {"columns": list(self.columns)}
        if isinstance(tokenizer, Subwords):
            state |= {"tokenizer": tokenizer.text, "length": tokenizer.length, "padding": tokenizer.padding}
        elif isinstance(tokenizer, NgramVocabulary):
            state["keys"] = to_text(tokenizer.keys)
        if self._weights is not None:
            state["weights"] = self._weights.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Input.load_state_dict`."""
        self.columns = tuple(state["columns"])
        if "tokenizer" in state:
            self._fitted = Subwords(state["tokenizer"], state["length"], state["padding"])
        elif "keys" in state:
            keys = from_text(state["keys"], np.uint64)
            self._fitted = NgramVocabulary(keys, self.ngrams, self.length, self.lowercase)
        else:
            self._fitted = self._hashed_words()
        self._weights = TokenWeights.from_state(state["weights"]) if "weights" in state else None

    @property
    def _tokenizer(self) -> Tokenizer:
        if self._fitted is None:
            raise RuntimeError(f"The text input of the column '{self.column}' is not fitted yet.")
        return self._fitted

    def _hashed_words(self) -> HashedWords:
        return HashedWords(self.buckets, self.ngrams, self.length, self.lowercase, self.affixes)

    def _learn_ngrams(self, table: Table, rows: np.ndarray) -> NgramVocabulary:
        assert self.min_count is not None
        at_once = max(1, _LEARNING_BYTES // (8 * self._hashed_words().length))
        texts = self._all_texts(table, rows, at_once)
        learned = NgramVocabulary.learn(texts, self.min_count, self.ngrams, self.length, self.lowercase)
        if not len(learned.keys):
            raise UserError(
                f"{table.source}: no word occurs in {self.min_count} of the {len(rows):,} training texts of "
                f"'{self.column}', which is the min_count of the input. Set a smaller min_count."
            )
        return learned

    def _learn_weights(self, table: Table, rows: np.ndarray, targets: Mapping[str, Target]) -> TokenWeights:
        labelled: dict[str, Target] = {}
        if "log_ratio" in self.weights:
            labelled = {task: target for task, target in targets.items() if target.spec.kind == "category"}
            if not labelled:
                raise UserError(
                    f"The input that reads '{self.column}' has the weights log_ratio, which are learned from the "
                    "classes of classification tasks, but there is no such task. Add one, or leave log_ratio out: "
                    "weights: [idf]."
                )
        counts = TokenCounts(
            self._tokenizer.vocabulary, {task: target.summary.classes for task, target in labelled.items()}
        )
        columns = [*self.columns, *(column for target in labelled.values() for column in target.spec.columns)]
        for positions, part in table.batches(list(dict.fromkeys(columns)), rows, rows_at_once(self)):
            labels = {
                task: target.labels(target.read(part, positions, table), None) for task, target in labelled.items()
            }
            counts.add(
                self._tokens(part, positions, table),
                {task: (cast("Tensor", places).numpy(), known.numpy()) for task, (places, known) in labels.items()},
            )
        return counts.weights(self.weights, unweighted=[self._tokenizer.padding, self._tokenizer.unknown])

    def count_words(self, part: pa.Table, rows: np.ndarray, table: Table) -> tuple[np.ndarray, np.ndarray]:
        """How many words each row has, and how many of these are read: int64 `[B]` each; of an input with `words`.

        A row whose cell is empty has -1. For parameters see `encode`.
        """
        cells = part.column(self.texts[0])
        there = ~np.asarray(cells.is_null())
        given, read = np.full(len(rows), -1), np.full(len(rows), -1)
        if there.any():
            own = part.select([self.texts[0]]).filter(pa.array(there))
            given[there] = words_of(own, self.texts[0], rows[there], table).lengths
            tokens = self._tokens(own, rows[there], table)
            last = np.zeros(len(tokens), dtype=np.int64)
            np.maximum.at(last, np.repeat(np.arange(len(tokens)), tokens.lengths), tokens.values[:, -1] + 1)
            read[there] = last
        return given, read

    def _tokens(self, part: pa.Table, rows: np.ndarray, table: Table) -> Ragged:
        """The ids of rows; of pairs and of words with a mark beside them."""
        tokenizer = self._tokenizer
        if self.words:
            assert isinstance(tokenizer, WordTokenizer)
            return tokenizer.encode_words(words_of(part, self.texts[0], rows, table))
        texts = texts_of(part, self.texts[0], rows, table)
        if len(self.texts) > 1:
            return tokenizer.encode_pairs(texts, optional_texts(part, self.texts[1], rows, table))
        tokens = tokenizer.encode(texts)
        return distinct(tokens, tokenizer.vocabulary) if self.weights else tokens

    def _blank(self) -> int | np.ndarray:
        """What stands for a text without tokens."""
        unknown = self._tokenizer.unknown
        if not self.words and len(self.texts) == 1:
            return unknown
        return np.array([*[unknown] * self._tokenizer.parts, NO_WORD if self.words else 0])

    def _with_marks(self, values: Tensor, mask: Tensor) -> dict[str, Tensor]:
        ids, marks = values[..., :-1], values[..., -1]
        ids = ids.squeeze(2) if ids.shape[2] == 1 else ids
        found = {"ids": ids.contiguous(), "mask": mask}
        if self.words:
            return {**found, "words": marks.masked_fill(~mask, NO_WORD)}
        return {**found, "segments": marks.masked_fill(~mask, 0)}

    def _all_texts(self, table: Table, rows: np.ndarray, size: int = 65_536) -> Iterator[pa.Array]:
        for positions, part in table.batches(self.columns, rows, size):
            if self.words:
                yield words_of(part, self.texts[0], positions, table).words
                continue
            yield texts_of(part, self.texts[0], positions, table)
            for column in self.texts[1:]:
                yield optional_texts(part, column, positions, table)

    def _check_form(self, *, words: bool, affixes: int, tokenizer: str, weights: Sequence[Weighting]) -> None:
        """Refuse what does not go with texts in words, and with pairs of texts."""
        if len(self.texts) not in (1, 2) or len(set(self.texts)) < len(self.texts):
            raise UserError(
                f"column names {listing(self.texts)}, but a text input reads one column, or two different ones that "
                "are pairs of texts."
            )
        if len(self.texts) == 2 and (words or weights):
            raise UserError(
                f"column names two columns, {listing(self.texts)}, but pairs of texts are neither read word by word "
                "(words) nor weighted (weights). Leave that out, or read one column."
            )
        if affixes < 0 or (affixes and not (words and tokenizer == "words")):
            raise UserError(
                f"affixes is {affixes}, but must be at least 0, and above 0 only with words: true and tokenizer: words."
            )


def _check_weights(weights: Sequence[str]) -> None:
    known = get_args(Weighting)
    for weighting in weights:
        if weighting not in known:
            raise UserError(
                f"weights names '{weighting}', which is none.{closest(weighting, known)} Allowed: {listing(known)}."
            )
    if len(set(weights)) < len(weights):
        raise UserError(f"weights names one twice: {listing(weights)}. Name each once.")

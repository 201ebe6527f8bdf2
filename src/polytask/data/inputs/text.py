"""Text in a column, as token ids."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from polytask.data.column_types import is_image
from polytask.data.inputs.draws import Draws
from polytask.data.inputs.encoded import Encoded, Encoding, Ragged
from polytask.data.inputs.hashed_words import HashedWords
from polytask.data.inputs.input import Input, rows_at_once
from polytask.data.inputs.ngram_vocabulary import NgramVocabulary
from polytask.data.inputs.subwords import BYTES, SPECIAL, Subwords, load_pretrained, train_bpe
from polytask.data.inputs.token_weights import TokenCounts, TokenWeights, Weighting, distinct, from_text, to_text
from polytask.data.inputs.tokenizer import Tokenizer
from polytask.data.table import Table
from polytask.data.target import Target
from polytask.errors import UserError, closest, listing
from polytask.shapes import TextShape

log = logging.getLogger("polytask")

_LEARNING_BYTES = 64 * 2**20
"""About how much memory the hashes take that a vocabulary is learned from at a time."""


class TextInput(Input):
    """Text as token ids, `{"ids": int64 [B, T], "mask": bool [B, T]}` with T the batch's longest text.

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
        column: The column.
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

    Raises:
        UserError: A parameter is out of range.
    """

    modality: ClassVar[Literal["text"]] = "text"

    def __init__(
        self,
        column: str,
        *,
        tokenizer: str = "bpe",
        vocabulary: int = 16_000,
        length: int = 256,
        lowercase: bool = True,
        ngrams: int = 1,
        buckets: int = 100_000,
        min_count: int | None = None,
        weights: Sequence[Weighting] = (),
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
        self.column = column
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
        return (self.column,)

    @property
    def shape(self) -> TextShape:
        """See `Input.shape`."""
        tokenizer = self._tokenizer
        return TextShape(tokenizer.vocabulary, tokenizer.length, tokenizer.padding, len(self.weights))

    def fit(self, table: Table, rows: np.ndarray, targets: Mapping[str, Target]) -> None:
        """See `Input.fit`."""
        if self.tokenizer == "words":
            self._fitted = self._hashed_words() if self.min_count is None else self._learn_ngrams(table, rows)
        elif self.tokenizer == "bpe":
            texts = (texts.to_pylist() for texts in self._texts(table, rows))
            self._fitted = Subwords(train_bpe(texts, self.vocabulary, self.lowercase), self.length)
        else:
            self._fitted = load_pretrained(self.tokenizer, self.length)
        if self.weights:
            self._weights = self._learn_weights(table, rows, targets)

    def encode(self, part: pa.Table, rows: np.ndarray, table: Table) -> Encoding:
        """See `Input.encode`."""
        tokens = self._tokens(self._strings(part, rows, table))
        empty = tokens.lengths == 0
        if empty.any():
            tokens = tokens.filled(empty, self._tokenizer.unknown)
        return Encoding(tokens, empty=int(empty.sum()))

    def collate(self, values: Encoded, rows: np.ndarray, draws: Draws | None) -> dict[str, Tensor]:
        """See `Input.collate`."""
        assert isinstance(values, Ragged)
        ids, mask = values.padded(self._tokenizer.padding)
        if self._weights is None:
            return {"ids": ids, "mask": mask}
        weights = torch.zeros(*mask.shape, len(self.weights))
        weights[mask] = torch.from_numpy(self._weights.of(values))
        return {"ids": ids, "mask": mask, "weights": weights}

    @property
    def row_bytes(self) -> int:
        """See `Input.row_bytes`."""
        return 4 * self._tokenizer.length + 16

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
        return HashedWords(self.buckets, self.ngrams, self.length, self.lowercase)

    def _learn_ngrams(self, table: Table, rows: np.ndarray) -> NgramVocabulary:
        assert self.min_count is not None
        at_once = max(1, _LEARNING_BYTES // (8 * self._hashed_words().length))
        texts = self._texts(table, rows, at_once)
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
            labels = {task: target.encode(part, positions, table) for task, target in labelled.items()}
            counts.add(
                self._tokens(self._strings(part, positions, table)),
                {task: (places.numpy(), known.numpy()) for task, (places, known) in labels.items()},
            )
        return counts.weights(self.weights, unweighted=[self._tokenizer.padding, self._tokenizer.unknown])

    def _tokens(self, texts: pa.Array) -> Ragged:
        tokens = self._tokenizer.encode(texts)
        return distinct(tokens, self._tokenizer.vocabulary) if self.weights else tokens

    def _texts(self, table: Table, rows: np.ndarray, size: int = 65_536) -> Iterator[pa.Array]:
        for positions, part in table.batches(self.columns, rows, size):
            yield self._strings(part, positions, table)

    def _strings(self, part: pa.Table, rows: np.ndarray, table: Table) -> pa.Array:
        column = part.column(self.column)
        if pa.types.is_nested(column.type) or is_image(column.type):
            raise UserError(f"{table.source}: the column '{self.column}' holds {column.type}, not text.")
        if column.null_count:
            row = int(rows[pc.index(pc.is_null(column), True).as_py()])
            reason, ways = table.absence(row, self.column)
            raise UserError(
                f"{table.locate(row)}: '{self.column}' is empty, and there is nothing else to predict from{reason}. "
                f"{ways[0]}, or {ways[1]}."
            )
        return column.cast(pa.large_string()).combine_chunks()


def _check_weights(weights: Sequence[str]) -> None:
    known = get_args(Weighting)
    for weighting in weights:
        if weighting not in known:
            raise UserError(
                f"weights names '{weighting}', which is none.{closest(weighting, known)} Allowed: {listing(known)}."
            )
    if len(set(weights)) < len(weights):
        raise UserError(f"weights names one twice: {listing(weights)}. Name each once.")

"""BM25: the baseline of every evaluation, and the miner of hard negatives.

Lucene's variant with k1 0.9 and b 0.4, BEIR's setting; Lucene's 33 English stop words removed, no stemming. Scripts
without spaces between words give n-grams of characters.
nDCG@10 (and Recall@100) on the test splits: SciFact 0.664 (0.886), NFCorpus 0.306 (0.236).
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping

import bm25s
import numpy as np
import regex
from bm25s.stopwords import STOPWORDS_EN
from numpy.typing import NDArray

from effir.data.beir import Document
from effir.errors import EffirError

K1, B = 0.9, 0.4
_WORD = re.compile(r"\w+")  # single letters are words: "vitamin D", "2-D"; bm25s's own pattern drops them
_STOP_WORDS = frozenset(STOPWORDS_EN)
_IDEOGRAMS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}ー"
_LETTERS = r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"  # of alphabets that are written without spaces
NEEDED = 10  # a tenth of a text's characters: an English text that quotes a Chinese word stays as it is
_INDIC = r"\u0900-\u0963\u0966-\u0dff"  # Devanagari to Sinhala: vowel signs, which \w leaves out, belong to words
_INDIC_WORD = re.compile(rf"(?:\w|[{_INDIC}])+")
_OTHER = regex.compile(f"[{_IDEOGRAMS}{_LETTERS}{_INDIC}]")
_RUN = regex.compile(rf"(?<ideograms>[{_IDEOGRAMS}]+)|(?<letters>[{_LETTERS}]+)|[^{_IDEOGRAMS}{_LETTERS}]+")


def bm25_search(documents: Iterable[Document], queries: Mapping[str, str], k: int) -> dict[str, dict[str, float]]:
    """Rank ``documents`` for every query: query id to document id to score, best first, ``k`` at most.

    Documents that share no word with a query are left out. Ties go to the earlier document, so that every machine gives
    the same ranking. The words of all documents are held in memory (8 bytes each). EffirError if there are none.
    """
    read = [(document.id, words(document.content)) for document in documents]
    ids, corpus = [id_ for id_, _ in read], [text for _, text in read]
    if not any(corpus):
        raise EffirError("BM25 finds no words: the corpus is empty, download it again or name another")
    index = bm25s.BM25(k1=K1, b=B, method="lucene")
    index.index(corpus, show_progress=False)
    found: dict[str, dict[str, float]] = {}
    for query, text in queries.items():
        scores = index.get_scores_from_ids(index.get_tokens_ids(words(text)))
        found[query] = {ids[place]: float(scores[place]) for place in best(scores, k)}
    return found


def words(text: str) -> list[str]:
    """Split a text into lower-case words without stop words; where a script has no spaces, into n-grams of characters.

    Those are single characters and pairs of Chinese and Japanese, and threes of Thai, Lao, Khmer and Burmese. Words of
    India's scripts keep their vowel signs. A text with less than a tenth of such characters is read as English is.

    >>> words("Smooth a noisy 2-D signal.")
    ['smooth', 'noisy', '2', 'd', 'signal']
    >>> words("NumPy的数组")
    ['numpy', '的', '数', '组', '的数', '数组']
    """
    lower = text.lower()
    is_other = _OTHER.search(lower) and NEEDED * len(_OTHER.findall(lower)) >= len(lower)
    found = _words_and_ngrams(lower) if is_other else _WORD.findall(lower)
    return [sys.intern(word) for word in found if word not in _STOP_WORDS]


def _words_and_ngrams(text: str) -> Iterator[str]:
    for run in _RUN.finditer(text):
        if ideograms := run["ideograms"]:
            yield from (*ideograms, *_ngrams(ideograms, 2))
        elif letters := run["letters"]:
            yield from _ngrams(letters, 3) or [letters]
        else:
            yield from _INDIC_WORD.findall(run[0])


def _ngrams(run: str, length: int) -> list[str]:
    return [run[start : start + length] for start in range(len(run) - length + 1)]


def best(scores: NDArray[np.float32], k: int) -> list[int]:
    """Return the places of the ``k`` highest scores above 0, highest first, ties by place.

    >>> best(np.array([0.5, 2.0, 0.0, 2.0, 0.5]), k=3)
    [1, 3, 0]
    """
    least = np.partition(scores, -k)[-k] if k < len(scores) else 0
    places = np.flatnonzero((scores >= least) & (scores > 0))
    ranked = places[np.argsort(-scores[places], kind="stable")]
    return [int(place) for place in ranked[:k]]

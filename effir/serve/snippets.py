"""The passage of a document that matches a query best."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from effir.encoding.encoder import TextEncoder, Vectors
from effir.serve.passages import grouped, sentences

WORDS = 30  # words of a passage: complete sentences, unless one is longer


def best_passages(encoder: TextEncoder, query: Vectors, texts: Sequence[str]) -> list[str]:
    """Return the passage of each text whose vector has the highest cosine with ``query``, a unit vector (dimension,).

    Only the part of a text that the encoder reads counts: a retriever truncates texts. A passage is a part of the text
    with single spaces between its words. All passages are encoded in one call; texts of one passage need none.
    """
    split = [passages_of(encoder, text) for text in texts]
    several = [passage for passages in split if len(passages) > 1 for passage in passages]
    vectors = iter(encoder.documents(several)) if several else iter(())
    return [_best(passages, vectors, query) for passages in split]


def passages_of(encoder: TextEncoder, text: str) -> list[str]:
    """Split what the encoder reads of a text into passages of about ``WORDS`` words."""
    read = encoder.reader.truncated(text, "document")
    return grouped(sentences(read), WORDS)


def _best(passages: Sequence[str], vectors: Iterator[Vectors], query: Vectors) -> str:
    if len(passages) < 2:
        return "".join(passages)
    return passages[int(np.argmax(np.stack(list(islice(vectors, len(passages)))) @ query))]

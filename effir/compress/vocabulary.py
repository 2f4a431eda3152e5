"""Cut a retriever's vocabulary to the tokens that texts use; the embedding keeps their rows.

A text is tokenised as before if all its tokens are kept, and with each what BPE passes through on the way to it:

1. Every merge that BPE applies to a text lies inside the span of a final token, and inside a span BPE does what it does
   to that span alone, because the pair of lowest rank in the text is also the lowest in its span.
2. So :func:`close` keeps all that is merged on the way to a kept token, and a cut drops no merge that the text needs.
3. The merges that remain keep their order and are a subset: at each step the pair that was the lowest of all is still
   there and still the lowest, so the same merge is applied.

With ``ignore_merges`` a whole word of the vocabulary is taken without merges, and a kept one still is. Other texts are
read in smaller tokens, down to single characters or bytes, which are all kept.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

from tokenizers import Tokenizer

from effir.compress.vocabulary_files import Pair, added_ids, cut_files, named_ids, pairs_of, read_tokenizer
from effir.data.beir import Collection as TextCollection
from effir.errors import EffirError
from effir.files import writing
from effir.model.prompt_config import transformer_of
from effir.model.weights import weight_files

CHUNK = 1024  # texts tokenised at a time
BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
"""What SentencePiece calls the tokens of single bytes, to which ``byte_fallback`` goes."""
Texts = Callable[[], Iterable[str]]
"""Opens a stream of texts, which is read several times."""


@dataclass(frozen=True)
class VocabularyCut:
    """Tokens of the vocabulary and bytes of weights and tokenizer.json before and after, and what it did to the texts.

    ``lost`` of the ``read`` tokens of all texts were dropped; ``changed`` of the ``texts`` are tokenised differently.
    """

    tokens_before: int
    tokens: int
    bytes_before: int
    bytes: int
    texts: int
    changed: int
    read: int
    lost: int


def fit_vocabulary(folder: Path, into: Path, texts: Texts, min_count: int = 1) -> VocabularyCut:
    """Write the retriever ``folder`` to ``into`` with the tokens that occur ``min_count`` times or more in the texts.

    Texts are counted with the prompt before them and beyond the length limit. Tokenised the same, a text has the same
    vector to the bit; with a ``min_count`` of 1 this holds for all texts, and EffirError says if it does not.
    """
    path = transformer_of(folder) / "tokenizer.json"
    counts = count_tokens(open_tokenizer(path), texts())
    kept = choose(folder, {token for token, count in counts.items() if count >= min_count})
    with writing(into) as draft:
        cut_files(folder, draft, kept)
        count, changed = compare(path, transformer_of(draft) / "tokenizer.json", kept, texts())
        if changed and min_count == 1:
            odd = f"with fewer tokens it reads {changed} of {count} texts differently, so it is no usual BPE"
            raise EffirError(f"{path}: {odd}: keep all tokens (retriever.vocabulary: all)")
        before, after = _bytes(folder), _bytes(draft)
    size, lost = open_tokenizer(path).get_vocab_size(), sum(counts[token] for token in counts.keys() - set(kept))
    return VocabularyCut(size, len(kept), before, after, count, changed, counts.total(), lost)


def count_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[int]:
    """Count how often each token id occurs; EffirError if there are no texts."""
    counts = Counter[int]()
    for chunk in _chunks(texts):
        for found in tokenizer.encode_batch(chunk):
            counts.update(found.ids)
    if not counts:
        raise EffirError("there are no texts to choose a vocabulary by: name texts")
    return counts


def choose(folder: Path, used: Collection[int]) -> list[int]:
    """List the ids to keep, ascending: those ``used``, closed, all added tokens, and those that a config names."""
    tokenizer = read_tokenizer(transformer_of(folder))
    model, always = tokenizer["model"], added_ids(tokenizer)
    token_of = {number: token for token, number in model["vocab"].items()}
    wanted = {token_of[number] for number in {*used, *named_ids(transformer_of(folder))} - always if number in token_of}
    closed = close(wanted, model["vocab"], pairs_of(model), bool(model.get("byte_fallback")))
    return sorted(always | {model["vocab"][token] for token in closed})


def close(
    used: Iterable[str], vocabulary: Collection[str], merges: Sequence[Pair], byte_fallback: bool = False
) -> set[str]:
    """Return the tokens ``used``, all that BPE passes through on the way to them, and its smallest units.

    The smallest units are all single characters of the vocabulary, which for byte-level BPE are the bytes; with
    ``byte_fallback`` they are the tokens of bytes.

    >>> merges = [("l", "o"), ("o", "w"), ("lo", "w"), ("e", "r")]
    >>> sorted(close({"low"}, {"l", "o", "w", "e", "r", "lo", "ow", "low", "er"}, merges))
    ['e', 'l', 'lo', 'low', 'o', 'r', 'w']
    """
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    units = BYTES & set(vocabulary) if byte_fallback else {token for token in vocabulary if len(token) == 1}
    return set(units).union(*(built_from(token, ranks) for token in used))


def built_from(token: str, ranks: Mapping[Pair, int]) -> set[str]:
    """Return the tokens that BPE passes through when it reads ``token`` alone; only itself if merges do not build it.

    >>> sorted(built_from("low", {("o", "w"): 0, ("l", "o"): 1, ("l", "ow"): 2}))
    ['l', 'low', 'o', 'ow', 'w']
    """
    parts, seen = list(token), set(token)
    while len(parts) > 1:
        rank, place = min((ranks.get(pair, len(ranks)), i) for i, pair in enumerate(pairwise(parts)))
        if rank == len(ranks):
            return {token}
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
        seen.add(parts[place])
    return seen


def compare(before: Path, after: Path, kept: Sequence[int], texts: Iterable[str]) -> tuple[int, int]:
    """Count the texts, and those that two tokenizer.json read differently; ``kept`` holds the old id of each new."""
    old, new, ids = open_tokenizer(before), open_tokenizer(after), {number: i for i, number in enumerate(kept)}
    count = changed = 0
    for chunk in _chunks(texts):
        for one, other in zip(old.encode_batch(chunk), new.encode_batch(chunk), strict=True):
            count += 1
            changed += [ids.get(number) for number in one.ids] != other.ids
    return count, changed


def collection_texts(collection: TextCollection, prompts: Mapping[str, str]) -> Iterator[str]:
    """Stream the documents and the queries of all splits, each after the prompt of its kind."""
    yield from (prompts["document"] + document.content for document in collection.documents())
    for split in collection.splits:
        yield from (prompts["query"] + query for query in collection.queries(split).values())


def open_tokenizer(path: Path) -> Tokenizer:
    """Open a tokenizer.json without its truncation and padding."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    stream = iter(texts)
    while chunk := list(islice(stream, CHUNK)):
        yield chunk


def _bytes(folder: Path) -> int:
    transformer = transformer_of(folder)
    return sum(path.stat().st_size for path in [*weight_files(transformer), transformer / "tokenizer.json"])

"""Whether a tokenizer fits its model: tokens that the embedding has, and texts that end with the pooled token."""

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from effir.errors import EffirError


def check_tokenizer(folder: Path, rows: int, source: str, *, appends_eos: bool) -> None:
    """Check the tokenizer in ``folder`` against an embedding of ``rows`` tokens; EffirError is about ``source``.

    With ``appends_eos``, effir will end each text with ``eos_token``: the tokenizer must not end texts otherwise.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # transformers raises many types for a damaged or incomplete tokenizer
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise EffirError(f"the tokenizer of {source} cannot be opened ({reason}): save it again") from error
    if not tokenizer.is_fast:
        raise EffirError(f"{source} has a tokenizer without tokenizer.json: save it again as a fast tokenizer")
    _check_ids(tokenizer, rows, source)
    if appends_eos:
        _check_text_end(tokenizer, source)


def _check_ids(tokenizer: Any, rows: int, source: str) -> None:
    if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
        raise EffirError(f"{source} has neither pad_token nor eos_token: set one in its tokenizer_config.json")
    used = {name: getattr(tokenizer, f"{name}_id") for name in ("pad_token", "eos_token", "bos_token")}
    for name, token in used.items():
        if token is not None and token >= rows:
            beyond = f"id {token}, but the model's embedding has {rows} rows, 0 to {rows - 1}"
            fix = "name a token that the model has in tokenizer_config.json (pad_token may equal eos_token)"
            raise EffirError(f"the tokenizer of {source} gives its {name} {getattr(tokenizer, name)!r} {beyond}: {fix}")
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}  # Gemma's <image_soft_token>
    if unknown := sorted(i for i in tokenizer.get_vocab().values() if i >= rows and i not in special):
        count = f"{len(unknown)} tokens, {tokenizer.convert_ids_to_tokens(unknown[0])!r} among them"
        fix = "name the tokenizer that the model was trained with"
        raise EffirError(f"the tokenizer of {source} has {count}, beyond the {rows} rows of the embedding: {fix}")


def _check_text_end(tokenizer: Any, source: str) -> None:
    if tokenizer.eos_token_id is None:
        fix = "set eos_token in its tokenizer_config.json, which retriever.pooling last and mean append to each text"
        raise EffirError(f"the tokenizer of {source} has no eos_token: {fix}")
    bare, framed = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    length = len(bare)
    ends = next((framed[i + length :] for i in range(len(framed)) if framed[i : i + length] == bare), framed)
    if ends not in ([], [tokenizer.eos_token_id]):
        end = " ".join(tokenizer.convert_ids_to_tokens(ends))
        said = f"ends texts with {end}, but its eos_token is {tokenizer.eos_token}, which effir would put in its place"
        fix = "set retriever.pooling to base if it is a retriever, or eos_token in its tokenizer_config.json"
        raise EffirError(f"the tokenizer of {source} {said}: {fix}")

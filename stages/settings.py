"""The sections retriever and model of params.yaml as the arguments of ``build_retriever``."""

from dataclasses import asdict
from typing import Any

from effir.errors import EffirError
from effir.files import require
from effir.model.prompt_config import prompt_config_of
from effir.params import Params
from stages.paths import BASE


def retriever_settings(params: Params) -> dict[str, Any]:
    """Keyword arguments of ``build_retriever``, the base model's own where params.yaml leaves them to it."""
    retriever, is_own = params.retriever, params.retriever.pooling == "base"
    pooling = prompt_config_of(require(BASE)).pooling if is_own else retriever.pooling
    return {"pooling": pooling, **_prompts(params), "max_tokens": retriever.max_tokens, "eos": not is_own}


def text_settings(params: Params) -> dict[str, Any]:
    """Keyword arguments of ``build_retriever`` where no text is pooled: texts end as finetune_full left them to."""
    return {"pooling": "mean", **_prompts(params), "max_tokens": params.training.max_tokens, "eos": False}


def _prompts(params: Params) -> dict[str, Any]:
    retriever = params.retriever
    said = {"query_prompt": retriever.query_prompt, "document_prompt": retriever.document_prompt}
    if None in said.values():
        own = prompt_config_of(require(BASE))
        said |= {name: asdict(own)[name] for name, value in said.items() if value is None}
        if said["query_prompt"] is None:
            named = f"none of the base model's prompts ({', '.join(own.prompts)}) is named query"
            raise EffirError(f"{named}: set retriever.query_prompt to the text of one")
    return said

"""The requests and answers of the service."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)

LONGEST, MOST_TEXTS, MOST_HITS = 20_000, 2048, 100

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST)]
Hits = Annotated[int, Field(ge=1, le=MOST_HITS)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS)]


def _as_texts(given: Any) -> Any:
    """Make one text a list of it; refuse token ids, which some clients of OpenAI's send, with the way out."""
    first = given[0] if isinstance(given, list) and given else None
    if isinstance(first, int | list):
        raise ValueError(
            "it holds token ids, which only the model that made them understands: send texts (in LangChain's "
            "OpenAIEmbeddings, check_embedding_ctx_length=False)"
        )
    return [given] if isinstance(given, str) else given


class Body(BaseModel):
    """A request: unknown fields are refused, values are not converted, and null is as if a field were absent."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {name: value for name, value in body.items() if value is not None or name not in optional}


class SearchRequest(Body):
    """A search of the index."""

    query: Text = Field(description="what to search for, in plain words", examples=["smooth a noisy signal"])
    k: Hits = Field(10, description="how many documents to return")
    snippets: bool = Field(False, description="also return the passage of each document that matches best; slower")


class Hit(BaseModel):
    """A document; ``score`` is its cosine with the query, ``passage`` the part of the text that matches best."""

    id: str
    title: str
    text: str
    score: float
    passage: str | None = None


class SearchAnswer(BaseModel):
    """The nearest documents, best first."""

    hits: list[Hit]


class EmbedRequest(Body):
    """Texts to encode."""

    texts: Texts
    kind: Literal["document", "query"] = Field("document", description="which prompt of the model precedes them")


class EmbedAnswer(BaseModel):
    """Unit vectors, in the order of the texts."""

    model: str
    dimension: int
    vectors: list[list[float]]


class OpenAIRequest(Body):
    """Texts in the format of OpenAI's embeddings; ``input_type`` is an extension that other services have too."""

    input: Annotated[Texts, BeforeValidator(_as_texts, json_schema_input_type=Text | Texts)]
    model: str = Field("", description="ignored: this service has one model")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, description="must be the dimension of the model")
    user: str | None = None
    input_type: Literal["document", "query"] = "document"


OWN, OPENAI = "own", "openai"  # the two forms of a request for vectors: OpenAI's has an ``input``


def _form(body: object) -> str:
    has_input = "input" in body if isinstance(body, dict) else isinstance(body, OpenAIRequest)
    return OPENAI if has_input else OWN


EitherRequest = Annotated[
    Annotated[EmbedRequest, Tag(OWN)] | Annotated[OpenAIRequest, Tag(OPENAI)], Discriminator(_form)
]


class OpenAIEmbedding(BaseModel):
    """The unit vector of one text: numbers, or base64 of float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class OpenAIUsage(BaseModel):
    """Tokens read, with EOS, after truncation."""

    prompt_tokens: int
    total_tokens: int


class OpenAIAnswer(BaseModel):
    """Embeddings in OpenAI's format."""

    object: Literal["list"] = "list"
    data: list[OpenAIEmbedding]
    model: str
    usage: OpenAIUsage


class Health(BaseModel):
    """The state of the service."""

    status: Literal["ok"] = "ok"
    model: str
    documents: int

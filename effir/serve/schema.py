"""What a client may send and what it gets."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag

LONGEST, MOST_TEXTS, MOST_HITS = 20_000, 64, 100


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MOST_TEXTS)]


class Body(BaseModel):
    """A request: unknown fields are refused, and nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class SearchRequest(Body):
    """A question to the index."""

    query: Text = Field(description="what is looked for, in plain words", examples=["smooth a noisy signal"])
    k: Annotated[int, Field(ge=1, le=MOST_HITS)] = Field(10, description="how many documents are wanted")


class Hit(BaseModel):
    """A document that was found; ``score`` is its cosine with the query."""

    id: str
    title: str
    text: str
    score: float


class SearchAnswer(BaseModel):
    """What was found, best first."""

    hits: list[Hit]


class EmbedRequest(Body):
    """Texts to turn into vectors."""

    texts: Texts
    kind: Literal["document", "query"] = Field("document", description="which of the model's prompts goes before them")


class EmbedAnswer(BaseModel):
    """Unit vectors, in the order of the texts."""

    model: str
    dimension: int
    vectors: list[list[float]]


class OpenAIRequest(Body):
    """Texts in the format of OpenAI's embeddings; ``input_type`` is an addition, as others have it."""

    input: Text | Texts
    model: str = Field("", description="any name: this service has one model")
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, description="only the model's own dimension")
    user: str | None = None
    input_type: Literal["document", "query"] = "document"


OWN, OPENAI = "own", "openai"
"""Names of the two forms of a request for vectors, told apart by whether it has an ``input``."""


def _form(body: object) -> str:
    has_input = "input" in body if isinstance(body, dict) else isinstance(body, OpenAIRequest)
    return OPENAI if has_input else OWN


EitherRequest = Annotated[
    Annotated[EmbedRequest, Tag(OWN)] | Annotated[OpenAIRequest, Tag(OPENAI)], Discriminator(_form)
]


class OpenAIEmbedding(BaseModel):
    """One text's unit vector, numbers or base64 of float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class OpenAIUsage(BaseModel):
    """Tokens read, the appended EOS and what was cut off not counted apart."""

    prompt_tokens: int
    total_tokens: int


class OpenAIAnswer(BaseModel):
    """Embeddings in OpenAI's format."""

    object: Literal["list"] = "list"
    data: list[OpenAIEmbedding]
    model: str
    usage: OpenAIUsage


class Health(BaseModel):
    """What this service serves."""

    status: Literal["ok"] = "ok"
    model: str
    documents: int

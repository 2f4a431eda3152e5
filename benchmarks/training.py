"""A training step of each kind: effir's, and the same step as PyTorch and peft compute it."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import click
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from benchmarks.roofline import limits, products
from benchmarks.table import ratio, save, times
from effir.compress.gates import SlimmingLoss, gating
from effir.cpu import length_bucketing
from effir.cpu.lora_kernel import lora_products
from effir.cpu.prepacked_linear import prepack
from effir.data.examples import load_examples
from effir.evaluation.speed import alternate
from effir.model.precision import arithmetic, uses_bfloat16
from effir.model.retriever import build_retriever
from effir.model.shape import shape_of
from effir.params import Params, load_params
from effir.training.distillation import HiddenStateLoss
from effir.training.losses import ranking_loss
from effir.training.trainer import add_adapters
from stages.paths import BASE, DEPTH, DISTILLED, FULL, TRAIN, WIDTH
from stages.schedules import adapters_of, distill_schedule, finetune_schedule, gate_schedule
from stages.settings import retriever_settings

BATCHES = 3
OURS = "effir"
Columns = list[dict[str, Tensor]]


@dataclass(frozen=True)
class Step:
    """One way to compute a training step; ``flops`` of its products per token, forward, backward and teacher."""

    work: str
    way: str
    take: Callable[[], object]
    flops: float
    columns: list[Columns]
    context: object = None  # open while the step exists

    @property
    def tokens(self) -> int:
        """Real tokens of the batches."""
        return sum(int(side["attention_mask"].sum()) for columns in self.columns for side in columns)

    @property
    def padded_share(self) -> float:
        """Share of padding in the batches."""
        with bucketing(self.way == OURS):
            sides = [side for columns in self.columns for side in columns]
            padded = [
                bucket["attention_mask"].numel() for side in sides for _, bucket in length_bucketing.buckets(side)
            ]
        return 1 - self.tokens / int(sum(padded))


@contextmanager
def bucketing(wanted: bool) -> Iterator[None]:
    """Let losses bucket a batch by length, as effir does, or not."""
    before = length_bucketing.FORWARD_TOKENS
    if not wanted:
        length_bucketing.FORWARD_TOKENS = 10**9
    try:
        yield
    finally:
        length_bucketing.FORWARD_TOKENS = before


def batches(model: SentenceTransformer, size: int, negatives: int, max_tokens: int) -> list[Columns]:
    """Tokenise real training examples: query, positive and ``negatives`` hard negatives."""
    examples, found = load_examples(TRAIN, "train", negatives), []
    model.max_seq_length = max_tokens
    for start in range(0, BATCHES * size, size):
        some = examples[start * 7 :: 7][:size]  # neighbours are of one package
        sides = [("query", [e.query for e in some]), ("document", [e.positive for e in some])]
        sides += [("document", [e.negatives[i] for e in some]) for i in range(negatives)]
        found.append([dict(model.preprocess(texts, prompt=model.prompts[side])) for side, texts in sides])
    return found


def stepping(
    model: nn.Module, loss: nn.Module, columns: list[Columns], bfloat16: bool, held: AbstractContextManager[object]
) -> Callable[[], object]:
    """Return a function that takes one optimiser step per batch, as the trainer does; ``held`` is open meanwhile."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-6)

    def take() -> None:
        with held, bucketing(isinstance(held, PrepackedOnce)):
            for batch in columns:
                with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                    value = loss([dict(side) for side in batch], None)
                value.backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimiser.step()
                optimiser.zero_grad()

    return take


def opened(folder: Any, params: Params) -> SentenceTransformer:
    """Open a model as the trainer does."""
    model = build_retriever(folder, **retriever_settings(params))
    model[0].model.set_attn_implementation("eager")
    return model.train()


class PrepackedOnce(AbstractContextManager[object]):
    """:func:`lora_products`, which may be entered again without prepacking, so that prepacking is not timed."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        with ExitStack() as stack:
            stack.enter_context(lora_products(model, dtype))
            self.forwards = {each: vars(each)["forward"] for each in model.modules() if "forward" in vars(each)}

    def __enter__(self) -> None:
        for module, forward in self.forwards.items():
            module.forward = forward

    def __exit__(self, *error: object) -> None:
        for module in self.forwards:
            del module.forward


def gates(params: Params) -> Iterator[Step]:
    """Train gates: with all gradients on, with those of the gates alone, and as effir does."""
    schedule, bfloat16 = gate_schedule(params), uses_bfloat16(params.training.precision)
    flops = shape_of(DISTILLED).flops_per_token(schedule.max_tokens)
    for way, weights, prepacked in (
        ("all gradients on", True, False),
        ("gradients of the gates alone", False, False),
        (OURS, False, True),
    ):
        model = opened(DISTILLED, params)
        columns = batches(model, schedule.batch_size, 0, schedule.max_tokens)
        context = gating(model[0].model)
        found = context.__enter__()
        if weights:
            model.requires_grad_(True)
        loss = SlimmingLoss(ranking_loss(model, params.training.temperature), list(found.values()), 1e-8, 5.0)
        held = PrepackedOnce(model, arithmetic(schedule.precision)) if prepacked else nullcontext()
        yield Step(
            "gates",
            way,
            stepping(model, loss, columns, bfloat16, held),
            flops * (3 if weights else 2),
            columns,
            context,
        )


def fine_tuning(params: Params, compiled: bool) -> Iterator[Step]:
    """Fine-tune with LoRA: as peft does, and as effir does."""
    schedule, bfloat16 = finetune_schedule(params), uses_bfloat16(params.training.precision)
    flops = 2 * shape_of(WIDTH).flops_per_token(schedule.max_tokens)
    for way in ("as peft does", *(["torch.compile"] if compiled else []), OURS):
        model = opened(WIDTH, params)
        columns = batches(model, schedule.batch_size, params.training.negatives, schedule.max_tokens)
        add_adapters(model, adapters_of(params, params.finetune.lora_rank), schedule.seed)
        if way == "torch.compile":
            model[0].model.compile(dynamic=True)
        held = PrepackedOnce(model, arithmetic(schedule.precision)) if way == OURS else nullcontext()
        loss = ranking_loss(model, params.training.temperature)
        yield Step("fine-tuning", way, stepping(model, loss, columns, bfloat16, held), flops, columns)


def distilling(params: Params) -> Iterator[Step]:
    """Distil the uncompressed model: as peft does, and as effir does, which prepacks the teacher too."""
    schedule, bfloat16 = distill_schedule(params), uses_bfloat16(params.training.precision)
    own, teacher_flops = (shape_of(folder).flops_per_token(schedule.max_tokens) for folder in (DEPTH, FULL))
    for way in ("as peft does", OURS):
        model, teacher = opened(DEPTH, params), opened(FULL, params)
        columns = batches(model, schedule.batch_size, 0, schedule.max_tokens)
        add_adapters(model, adapters_of(params, params.distill.lora_rank), schedule.seed)
        held: AbstractContextManager[object] = nullcontext()
        if way == OURS:
            prepack(teacher[0].model, arithmetic(schedule.precision))
            held = PrepackedOnce(model, arithmetic(schedule.precision))
        loss = HiddenStateLoss(model, teacher, schedule.precision)
        take = stepping(model, loss, columns, bfloat16, held)
        yield Step("distillation", way, take, 2 * own + teacher_flops, columns)


def compare(steps: Sequence[Step], limit: float, rounds: int) -> list[dict[str, Any]]:
    """Take the steps of one kind of work in turn; the last way is that of effir."""
    took = alternate({step.way: step.take for step in steps}, rounds)
    return [
        {
            "work": step.work,
            "way": step.way,
            "seconds_a_step": [seconds / BATCHES for seconds in took[step.way]],
            "effir_speedup": ratio(took[step.way], took[OURS]),
            "tokens_per_second": step.tokens / statistics.median(took[step.way]),
            "share_of_limit": step.tokens * step.flops / statistics.median(took[step.way]) / 1e9 / limit,
            "padded_share": step.padded_share,
        }
        for step in steps
    ]


COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "work": lambda row: row["work"],
    "way": lambda row: row["way"],
    "seconds a step": lambda row: f"{statistics.median(row['seconds_a_step']):.2f}",
    "effir is faster, times": lambda row: times(row["effir_speedup"]),
    "tokens/s": lambda row: f"{row['tokens_per_second']:,.0f}",
    "share of the limit": lambda row: f"{row['share_of_limit']:.2f}",
    "padding": lambda row: f"{row['padded_share']:.1%}",
}


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--compile", "compiled", is_flag=True, help="Also torch.compile, which needs a C++ compiler.")
def main(rounds: int, compiled: bool) -> None:
    """Time training steps with the models and settings of the pipeline, each way in turn."""
    params = load_params()
    kind = "bfloat16" if uses_bfloat16(params.training.precision) else "float32"
    limit = limits(products(BASE))[kind]
    rows: list[dict[str, Any]] = []
    for make in (gates, distilling, lambda settings: fine_tuning(settings, compiled)):
        rows += compare(list(make(deepcopy(params))), limit, rounds)
        click.echo("\n".join("  ".join(f"{name}: {show(row)}" for name, show in COLUMNS.items()) for row in rows))
    save(
        "training",
        "A training step",
        rows,
        columns=COLUMNS,
        notes=[
            f"{BATCHES} batches of `apidocs` with the settings of params.yaml, forward, backward and AdamW, in {kind}; "
            f"the limit is {limit:,.0f} GFLOP/s, the speed of the products of the base model alone, 1,024 rows. "
            "FLOPs count the products of the model on real tokens: the backward once for the inputs and, with all "
            "gradients on, once for the weights. Adapters and attention scores are not counted.",
        ],
        settings={"rounds": rounds, "batches": BATCHES, "limit_gflops": limit},
    )


if __name__ == "__main__":
    main()

"""A training step of each kind: what effir computes, against the same step as PyTorch and peft do it."""

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
from effir.compress.channel_scores import SlimmingLoss, gating
from effir.cpu import length_bucketing as buckets
from effir.cpu.lora_kernel import lora_products
from effir.cpu.precision import arithmetic, uses_bfloat16
from effir.cpu.prepacked_linear import pack
from effir.data.examples import load_examples
from effir.evaluation.speed import alternate
from effir.model.retriever import build_retriever
from effir.model.shape import shape_of
from effir.params import Params, load_params
from effir.training.losses import ranking_loss
from effir.training.recovery import HiddenStateLoss
from effir.training.trainer import add_adapters
from stages.paths import BASE, DEPTH, DISTILLED, FULL, TRAIN, WIDTH
from stages.schedules import adapters_of, distill_schedule, finetune_schedule, gate_schedule
from stages.settings import retriever_settings

BATCHES = 3
OURS = "effir"
Columns = list[dict[str, Tensor]]


@dataclass(frozen=True)
class Step:
    """One way to take a training step; ``flops`` of its products a token, forward and backward, teacher included."""

    work: str
    way: str
    take: Callable[[], object]
    flops: float
    columns: list[Columns]
    context: object = None  # kept open as long as the step

    @property
    def tokens(self) -> int:
        """Real tokens of the batches."""
        return sum(int(side["attention_mask"].sum()) for columns in self.columns for side in columns)

    @property
    def padded_share(self) -> float:
        """Share of padding in the batches."""
        with in_parts(self.way == OURS):
            parts = [part for columns in self.columns for side in columns for _, part in buckets.parts(side)]
        return 1 - self.tokens / sum(int(part["attention_mask"].numel()) for part in parts)


@contextmanager
def in_parts(wanted: bool) -> Iterator[None]:
    """Let losses part a batch by length, as effir does, or not, as everybody else."""
    usual = buckets.PART_TOKENS
    if not wanted:
        buckets.PART_TOKENS = 10**9
    try:
        yield
    finally:
        buckets.PART_TOKENS = usual


def batches(model: SentenceTransformer, size: int, negatives: int, max_tokens: int) -> list[Columns]:
    """Tokenise real training examples: query, positive and so many hard negatives."""
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
    """Return a function that takes one optimiser step a batch, as the trainer does; ``held`` is effir's alone."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-6)

    def take() -> None:
        with held, in_parts(isinstance(held, Frozen)):
            for batch in columns:
                with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                    value = loss([dict(side) for side in batch], None)
                value.backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimiser.step()
                optimiser.zero_grad()

    return take


def opened(folder: Any, params: Params) -> SentenceTransformer:
    """Open a model as the trainer holds it."""
    model = build_retriever(folder, **retriever_settings(params))
    model[0].model.set_attn_implementation("eager")
    return model.train()


class Frozen(AbstractContextManager[object]):
    """:func:`lora_products`, entered anew each time with what was packed once, so that packing is not timed."""

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
    """Train gates: with all gradients on, as PyTorch does where only gates want one, and as effir does."""
    schedule, bfloat16 = gate_schedule(params), uses_bfloat16(params.training.precision)
    flops = shape_of(DISTILLED).flops_per_token(schedule.max_tokens)
    for way, weights, packed in (
        ("all gradients on", True, False),
        ("gates' gradients alone", False, False),
        (OURS, False, True),
    ):
        model = opened(DISTILLED, params)
        columns = batches(model, schedule.batch_size, 0, schedule.max_tokens)
        context = gating(model[0].model)
        found = context.__enter__()
        if weights:
            model.requires_grad_(True)
        loss = SlimmingLoss(ranking_loss(model, params.training.temperature), list(found.values()), 1e-8, 5.0)
        held = Frozen(model, arithmetic(schedule.precision)) if packed else nullcontext()
        yield Step(
            "gates",
            way,
            stepping(model, loss, columns, bfloat16, held),
            flops * (3 if weights else 2),
            columns,
            context,
        )


def healing(params: Params, compiled: bool) -> Iterator[Step]:
    """Heal with LoRA: as peft does, and as effir does."""
    schedule, bfloat16 = finetune_schedule(params), uses_bfloat16(params.training.precision)
    flops = 2 * shape_of(WIDTH).flops_per_token(schedule.max_tokens)
    for way in ("as peft does", *(["torch.compile"] if compiled else []), OURS):
        model = opened(WIDTH, params)
        columns = batches(model, schedule.batch_size, params.training.negatives, schedule.max_tokens)
        add_adapters(model, adapters_of(params, params.finetune.lora_rank), schedule.seed)
        if way == "torch.compile":
            model[0].model.compile(dynamic=True)
        held = Frozen(model, arithmetic(schedule.precision)) if way == OURS else nullcontext()
        loss = ranking_loss(model, params.training.temperature)
        yield Step("healing", way, stepping(model, loss, columns, bfloat16, held), flops, columns)


def restoring(params: Params) -> Iterator[Step]:
    """Restore towards the tuned model: as peft does, and as effir does, whose teacher is packed too."""
    schedule, bfloat16 = distill_schedule(params), uses_bfloat16(params.training.precision)
    own, teacher_flops = (shape_of(folder).flops_per_token(schedule.max_tokens) for folder in (DEPTH, FULL))
    for way in ("as peft does", OURS):
        model, teacher = opened(DEPTH, params), opened(FULL, params)
        columns = batches(model, schedule.batch_size, 0, schedule.max_tokens)
        add_adapters(model, adapters_of(params, params.distill.lora_rank), schedule.seed)
        held: AbstractContextManager[object] = nullcontext()
        if way == OURS:
            pack(teacher[0].model, arithmetic(schedule.precision))
            held = Frozen(model, arithmetic(schedule.precision))
        loss = HiddenStateLoss(model, teacher, schedule.precision)
        take = stepping(model, loss, columns, bfloat16, held)
        yield Step("restoring", way, take, 2 * own + teacher_flops, columns)


def compare(steps: Sequence[Step], limit: float, rounds: int) -> list[dict[str, Any]]:
    """Take the steps of one kind of work in turn; the last way is effir's."""
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
    """Take training steps of the pipeline's models and settings, each way in turn."""
    params = load_params()
    kind = "bfloat16" if uses_bfloat16(params.training.precision) else "float32"
    limit = limits(products(BASE))[kind]
    rows: list[dict[str, Any]] = []
    for make in (gates, restoring, lambda settings: healing(settings, compiled)):
        rows += compare(list(make(deepcopy(params))), limit, rounds)
        click.echo("\n".join("  ".join(f"{name}: {show(row)}" for name, show in COLUMNS.items()) for row in rows))
    save(
        "training",
        "A training step",
        rows,
        columns=COLUMNS,
        notes=[
            f"{BATCHES} batches of `apidocs` with the settings of params.yaml, forward, backward and AdamW, in {kind}; "
            f"the limit is {limit:,.0f} GFLOP/s, what the products of the base model reach alone, 1,024 rows. FLOPs "
            "are those of the model's own products on real tokens, backward once for the inputs and, with all "
            "gradients on, once for the weights; adapters and attention scores are not counted.",
        ],
        settings={"rounds": rounds, "batches": BATCHES, "limit_gflops": limit},
    )


if __name__ == "__main__":
    main()

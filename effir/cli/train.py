"""`effir train`: from a table of questions and answers to a retriever."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from effir.cli.tables import collection_options, column_options, is_objects, read_documents, read_objects, read_rows
from effir.cli.terminal import PATH, answer, json_option

if TYPE_CHECKING:
    from effir.lab.table_outcome import Outcome
    from effir.lab.table_training import Plan, Table


@click.command()
@click.argument("path", type=PATH)
@click.option("--minutes", type=click.IntRange(min=1), default=30, show_default=True, help="How long it may take.")
@click.option("--name", help="Name of the collection. The default is the name of the file.")
@column_options
@collection_options
@click.option("--dry-run", is_flag=True, help="Show the plan and the changes of params.yaml; write and run nothing.")
@json_option()
def train(
    path: Path,
    minutes: int,
    name: str | None,
    documents: Path | None,
    test_share: float,
    dry_run: bool,
    as_json: bool,
    **form: str,
) -> None:
    """Train a retriever on the table PATH: a question and a document that answers it in each row.

    PATH is CSV or TSV with a header, or JSON lines or a JSON array of `query` and `positive` (.jsonl, .json); the
    options name other columns. It becomes a collection under data/tables. Some questions are held out. The training
    steps that fit into --minutes are written into params.yaml, and `dvc repro` runs. The result is compared with BM25,
    the encoders of evaluate.baselines and the uncompressed model on the held-out questions. `git checkout params.yaml`
    goes back to the settings of the last commit. When nothing has changed, a second call takes seconds.

    Example: effir train tickets.csv --query question --document answer --minutes 30
    """
    from effir.cli.profiles import write_overlays
    from effir.lab import table_training as lab
    from effir.params import load_params

    params = load_params()
    chosen = name or lab.name_for(path)
    lab.check_name(chosen, params.data.collections)
    pairs = read_objects(path, form) if is_objects(path) else read_rows(path, form)
    others, least = read_documents(documents, form), max(lab.batch_sizes_of(params).values())
    with tempfile.TemporaryDirectory() as place:
        draft = Path(place) / chosen
        table = lab.make_table(chosen, pairs, others, draft, test_share, least)
        plan = lab.plan_training(table, minutes, params)
        changes = write_overlays([plan.settings], dry_run=True)
        click.echo("\n".join(_plan_lines(path, table, plan, changes)), err=as_json)
        if not dry_run:
            lab.install_table(draft, table)
    if not dry_run:
        write_overlays([plan.settings])
        lab.keep_plan(table, plan)
    found = None if dry_run else _run(table.name, as_json)
    if as_json or found:
        answer(_as_json(table, plan, changes, found), "\n".join(_outcome_lines(found) if found else []), as_json)


def _run(name: str, quiet: bool) -> "Outcome":
    from effir.lab.table_outcome import outcome
    from effir.lab.trials import repro
    from effir.params import load_params

    repro(to_stderr=quiet)
    click.echo("evaluating the uncompressed model on the held-out questions", err=True)
    return outcome(name, load_params())


def _plan_lines(path: Path, table: "Table", plan: "Plan", changes: list[tuple[str, Any, Any]]) -> list[str]:
    budget = plan.budget
    steps = {part: f"{count:,} steps" for part, count in budget.steps.items()}
    parts = [(part, steps.get(part, ""), seconds) for part, seconds in budget.seconds.items()]
    return [
        f"{path}: {table.documents:,} documents, {table.train:,} questions to train on, {table.test:,} held out",
        *table.warnings,
        f"The plan, about {budget.total / 60:.0f} minutes:",
        *(f"  {part:<40}{steps:>12}{seconds / 60:>6.1f} min" for part, steps, seconds in parts if seconds),
        *(f"  ({note})" for note in plan.notes),
        "Changes of params.yaml (to go back: git checkout params.yaml):"
        if changes
        else "params.yaml has these settings already.",
        *(f"  {key}: {old} -> {new}" for key, old, new in changes),
    ]


def _outcome_lines(found: "Outcome") -> list[str]:
    rows = [(each.name, f"{each.ndcg:.3f}", each.low, each.high) for each in found.systems]
    tests = [(each.name, each.test) for each in found.systems if each.test]
    rows += [(f"effir - {name}", f"{test.difference:+.3f}", test.low, test.high) for name, test in tests]
    cost = f"{found.kept_share:.0%} of the non-embedding parameters of the uncompressed model"
    timed = [(each.name, each.document_speedup) for each in found.systems if each.document_speedup]
    speeds = ", ".join(f"{name} {speed:.1f}" for name, speed in timed if name != "uncompressed")
    width = max(22, *(len(name) + 2 for name, *_ in rows))
    return [
        "",
        f"{found.questions:,} held-out questions:",
        f"  {'':<{width}}{'nDCG@10':>8}{'95 % interval':>20}",
        *(f"  {name:<{width}}{ndcg:>8}{f'{low:.3f} to {high:.3f}':>20}" for name, ndcg, low, high in rows),
        f"effir has {cost}. Documents a second, relative to that model: {speeds}.",
        *found.advice,
        'Next: effir search "a question"; effir promote; effir index build and effir serve for documents of your own.',
    ]


def _as_json(
    table: "Table", plan: "Plan", changes: list[tuple[str, Any, Any]], found: "Outcome | None"
) -> dict[str, Any]:
    questions = {"train": table.train, "test": table.test}
    made = {"name": table.name, "folder": str(table.folder), "documents": table.documents, "questions": questions}
    planned = {"expected_minutes": plan.budget.total / 60, "steps": plan.budget.steps, "notes": plan.notes}
    return {**made, "warnings": table.warnings, **planned, "changes": changes, "outcome": found}

"""`effir study`: run what a study still lacks."""

from pathlib import Path

import click

RESULTS = Path("studies/results")


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
def study(path: Path) -> None:
    """Run the experiments of the study PATH that have no result yet; each one's figures are kept as it ends.

    Results are studies/results/<name>.json: commit them. A study that was stopped or killed goes on when the command is
    repeated.

    Example: effir study studies/direct.yaml
    """
    from functools import partial

    from effir.files import state_dir
    from effir.studies import fetch_healed, in_experiments, read_study, run_study

    plan = read_study(path)
    say = partial(click.echo, err=True)
    heard: list[str] = []

    def once(stage: str) -> None:
        if heard[-1:] != [stage]:
            heard.append(stage)
            say(stage)

    results = RESULTS / f"{plan.name}.json"
    rows = run_study(plan, results, state_dir("studies"), in_experiments(once), fetch_healed)
    for row in rows:
        figures = "  ".join(f"{name} {found['ndcg_at_10']:.3f}" for name, found in row["quality"].items())
        click.echo(f"{row['name']}: {figures}  {row['cost']['kept_share']:.1%} of the parameters")

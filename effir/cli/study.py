"""`effir study`: run what a study still lacks."""

import json
from pathlib import Path

import click

RESULTS = Path("studies/results")


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("runs", nargs=-1)
@click.option("-S", "--set", "settings", multiple=True, help="KEY=VALUE for every run, not kept: where data come from.")
@click.option("--json", "as_json", is_flag=True, help="The rows as one JSON array, for programs.")
def study(path: Path, runs: tuple[str, ...], settings: tuple[str, ...], as_json: bool) -> None:
    """Run the experiments of the study PATH that have no result yet, or those RUNS of them.

    Each one's figures are kept as it ends.

    Results are studies/results/<name>.json: commit them. A study that was stopped or killed goes on when the command is
    repeated.

    Example: effir study studies/direct.yaml -S data.mirror=file:///data/beir
    """
    from functools import partial

    import yaml

    from effir.cli.sweep import pair
    from effir.files import state_dir
    from effir.lab.studies import in_experiments, read_study, run_study
    from effir.params import PARAMS, flatten, load_params

    load_params()  # refuses what no run could read
    plan = read_study(path)
    say = partial(click.echo, err=True)
    heard: list[str] = []

    def once(stage: str) -> None:
        if heard[-1:] != [stage]:
            heard.append(stage)
            say(stage)

    params = flatten(yaml.safe_load(PARAMS.read_text(encoding="utf-8")))
    run = in_experiments(once, dict(map(pair, settings)), params)
    rows = run_study(plan, RESULTS / f"{plan.name}.json", state_dir("studies"), params, run, runs)
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        figures = "  ".join(f"{name} {found['ndcg_at_10']:.3f}" for name, found in row["quality"].items())
        click.echo(f"{row['name']}: {figures}  {row['cost']['kept_share']:.1%} of the parameters")

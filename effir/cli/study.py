"""`effir study`: run the experiments of a study."""

from pathlib import Path
from typing import Any

import click

from effir.cli.terminal import PATH, answer, json_option

RESULTS = Path("studies/results")


@click.command()
@click.argument("path", type=PATH)
@click.argument("runs", nargs=-1)
@click.option(
    "-S", "--set", "settings", multiple=True, help="KEY=VALUE that says where data are; results do not keep it."
)
@json_option("array of the rows")
def study(path: Path, runs: tuple[str, ...], settings: tuple[str, ...], as_json: bool) -> None:
    """Run the experiments of the study PATH that have no result yet, or only those named RUNS.

    Each result is written to studies/results/<name>.json as soon as its run ends: commit that file. Repeat the command
    to continue a study that was stopped or killed.

    Example: effir study studies/direct.yaml -S data.mirror=file:///data/beir
    """
    import yaml

    from effir.cli.sweep import pair
    from effir.files import state_dir
    from effir.lab.studies import in_experiments, read_study, run_study
    from effir.params import PARAMS, flatten, load_params

    load_params()  # checks the file
    plan = read_study(path)
    heard: list[str] = []

    def once(stage: str) -> None:
        if heard[-1:] != [stage]:
            heard.append(stage)
            click.echo(stage, err=True)

    params = flatten(yaml.safe_load(PARAMS.read_text(encoding="utf-8")))
    run = in_experiments(once, dict(map(pair, settings)), params)
    rows = run_study(plan, RESULTS / f"{plan.name}.json", state_dir("studies"), params, run, runs)
    answer(rows, "\n".join(map(_shown, rows)), as_json)


def _shown(row: dict[str, Any]) -> str:
    quality = "  ".join(f"{name} {found['ndcg_at_10']:.3f}" for name, found in row["quality"].items())
    return f"{row['name']}: {quality}  {row['cost']['kept_share']:.1%} of the parameters"

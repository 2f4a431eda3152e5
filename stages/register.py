"""Complete the pipeline's MLflow run and register the retriever."""

import json
from pathlib import Path

import click

from effir.files import read_json, require
from effir.lab.pipeline import RUNS, stages_in_order
from effir.tracking.model_card import Origin, description, git_state, licences_of, model_card, recipe
from effir.tracking.registry import VersionFiles, register_retriever
from effir.tracking.runs import finish_pipeline, pipeline_run
from stages.paths import COST, EVAL, METRICS, PLOTS, REDUNDANCY, REPORTS, RETRIEVER, SLIMMING, TRAIN
from stages.program import checked, locked_hashes, logged, tracking

MISSING = (
    "no version is registered, and neither metrics nor plots are logged, as tracking.required is false; "
    "`dvc repro --force --single-item register` does it once the store is back"
)


@click.command()
def main() -> None:
    """Register the retriever under its alias, and log all params, metrics and plots on the pipeline's run."""
    with checked() as params, tracking(params.tracking.required, MISSING):
        sets, everything, register = params.data.eval, logged(params), params.register_
        quality = {name: read_json(METRICS / f"{name}.json") for name in sets}
        cost, hashes = read_json(COST), locked_hashes()
        groups = {**quality, "cost": cost}
        metrics = {f"{group}/{key}": value for group, values in groups.items() for key, value in values.items()}
        scores = {name: require(REPORTS / f"{name}-queries.json") for name in sets}
        licences = licences_of([TRAIN, *(EVAL / name for name in sets)])
        model, code, teacher = params.model, git_state(Path.cwd()), params.training.teacher
        origin = Origin(model.base, model.licence, licences, code, teacher, params.self_distilled)
        prompts = read_json(RETRIEVER / "config_sentence_transformers.json")["prompts"]
        about = description(quality, cost)
        card = model_card(params.variant, quality, cost, origin, prompts, recipe(params))
        pipeline = pipeline_run(everything)
        if register.version:
            files = {path.name: read_json(path) for path in scores.values()}
            files |= {"params.json": everything, "metrics.json": groups, "dvc.lock.json": hashes}
            inputs = {path: md5 for path, md5 in hashes.items() if path.startswith(("data/", "models/"))}
            version = register_retriever(
                require(RETRIEVER),
                name=register.name,
                pipeline_run_id=pipeline,
                tags={"variant": params.variant, **origin.tags(), "dvc": json.dumps(inputs)},
                alias=register.alias,
                papers=VersionFiles(card=card, description=about, params=everything, metrics=metrics, files=files),
            )
            click.echo(f"{register.name} version {version} is now its {register.alias}")
        finish_pipeline(
            params.variant,
            params=everything,
            stages=stages_in_order(sets),
            records=RUNS,
            metrics=metrics,
            artifacts=[PLOTS, REDUNDANCY, SLIMMING, *scores.values()],
            hashes=hashes,
            description=about,
            card=card,
        )


if __name__ == "__main__":
    main()

"""What MLflow's UI shows first: the pipeline runs, the best on top, in the columns that tell them apart.

MLflow's UI keeps a shared view of an experiment as JSON in a tag of it; an address names the tag. Written for the UI of
MLflow 3.17; one that reads the tag otherwise shows its own table instead.
"""

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from effir.errors import EffirError
from effir.params import load_params
from effir.tracking import Store, open_store, reaching
from effir.tracking.registry import CHAMPION, PREVIOUS
from effir.tracking.runs import PIPELINE
from effir.tracking.stage_run import close_dead

KEY = "best"
TITLE, COMPARED = "Best run first", "Quality, size and speed"
VIEW = f"mlflow.sharedViewState.{KEY}"
NOTE = "mlflow.note.content"
RUN_NAME = "attributes.`Run Name`"


@reaching()
def show_best_first(sets: Sequence[str]) -> str:
    """Let MLflow's UI offer the experiment sorted by nDCG@10 on the first of ``sets``; return the view's address.

    Runs whose process is gone are ended. The address is what follows the server's own: ``/#/experiments/…``. A
    description that is there stays. StoreError where the store does not open.
    """
    store = open_store()
    close_dead(store)
    path = f"/#/experiments/{store.experiment_id}/runs?viewStateShareKey={KEY}&workflowType=machine_learning"
    known = store.client.get_experiment(store.experiment_id).tags
    state = json.dumps(view(sets))
    if _state(known.get(VIEW)) != state:
        now = int(time.time() * 1000)
        _tag(store, VIEW, json.dumps({"name": TITLE, "createdAt": now, "updatedAt": now, "state": state}))
    if not known.get(NOTE):  # a person may have written another
        _tag(store, NOTE, note(path))
    return path


@reaching()
def explain_aliases(name: str, alias: str) -> None:
    """Describe the registered model ``name`` by what its aliases mean, unless it is described, or not there yet.

    ``alias`` is the one that a new version gets. StoreError where the store does not open.
    """
    client = open_store().client
    for model in client.search_registered_models(f"name = '{name}'"):
        if not model.description:
            client.update_registered_model(name, aliases(alias))


def view(sets: Sequence[str]) -> dict[str, Any]:
    """State of the UI's runs table: pipeline runs only, quality beside size and speed, then what made it differ."""
    quality = [f"metrics.`{name}/ndcg_at_10`" for name in sets]
    cost = ["metrics.`cost/kept_share`", "metrics.`cost/document_speedup`"]
    metrics = [*quality, *cost, f"metrics.`{sets[0]}/recall_at_100`"]
    params = [f"params.`prune.{key}`" for key in ("depth", "width", "sublayer")]
    compared = [_letters(column) for column in [*quality, *cost]]
    return {
        "searchFilter": f"tags.`{PIPELINE}` LIKE '%'",
        "orderByKey": quality[0],
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": [*metrics, *params],
        "columnOrder": [RUN_NAME, *metrics, *params],
        "columnWidths": {RUN_NAME: 190} | {column: _pixels(column) for column in metrics + params},
        "compareRunSections": [{"uuid": KEY, "name": COMPARED, "display": True, "isReordered": False}],
        "compareRunCharts": [_bars(metric) for metric in compared],
        "isAccordionReordered": True,  # else the sections that the UI adds stand first
    }


def _bars(metric: str) -> dict[str, Any]:
    """Describe the chart of one metric, a bar a run, in our section of the comparison."""
    about = {"uuid": metric, "metricKey": metric, "displayName": metric, "metricSectionId": KEY}
    return {"type": "BAR", "isGenerated": False, "deleted": False, **about}


def _pixels(column: str) -> int:
    """Width that shows the whole heading, with the mark of the sorted column: about 7 pixels a letter."""
    return 40 + 7 * len(_letters(column))


def _letters(column: str) -> str:
    """Return what a column shows: ``metrics.`cost/kept_share` `` without its kind and backticks."""
    return column.split("`")[1]


def note(path: str) -> str:
    """Describe the experiment in one line of Markdown: more is folded away. It stands on all of its pages."""
    return (
        f"[**{TITLE}**]({path.removeprefix('/')}): nDCG@10 is search quality, kept_share what is left of the base "
        "model, document_speedup how much faster it is."
    )


def aliases(alias: str) -> str:
    """Say in Markdown what the aliases of a registered model mean."""
    return (
        f"`{CHAMPION}` serves. `{alias}` is the newest version: `effir promote` gives it the champion's place if it is "
        f"no worse. `{PREVIOUS}` served before: `effir rollback` brings it back."
    )


def _state(tag: str | None) -> str | None:
    try:
        return str(json.loads(tag or "")["state"])
    except (ValueError, TypeError, KeyError):
        return None


def _tag(store: Store, name: str, value: str) -> None:
    store.client.set_experiment_tag(store.experiment_id, name, value)


def main(server: str) -> None:
    """Prepare the view and print its address, which begins with ``server``'s."""
    params = load_params()
    explain_aliases(params.register_.name, params.register_.alias)
    print(f"The best run first: {server}{show_best_first(params.data.eval)}", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except EffirError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)

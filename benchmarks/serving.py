"""`effir serve` under load: one client, then many at once, with or without pauses between their questions."""

import itertools
import json
import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from benchmarks.processes import serving
from benchmarks.table import save
from effir.data.beir import open_collection
from effir.files import require, state_dir
from effir.serve.documents import MANIFEST, create_index
from effir.serve.open_model import model_of, open_model
from stages.paths import EVAL, RETRIEVER


def indexed(retriever: Path, collection: Path, backend: Any, precision: Any) -> Path:
    """Build the index of the set, once for each model, backend and precision."""
    model = model_of(str(retriever), backend, precision)
    folder = state_dir("benchmarks") / f"serving-{model.key}"
    if not (folder / MANIFEST).exists():
        create_index(folder, open_collection(collection).documents(), open_model(model).documents, model, "Flat")
    return folder


class Clients:
    """Clients that ask for ``seconds``, one question at a time, with mean pauses of ``think`` seconds."""

    def __init__(self, address: str, queries: Sequence[str], count: int, seconds: float, think: float) -> None:
        self.address, self.count, self.think = address, count, think
        self.queries = itertools.cycle(queries)
        self.until = time.perf_counter() + seconds
        self.took: list[float] = []
        self.errors = 0

    def run(self) -> None:
        """Ask until the time is up."""
        threads = [threading.Thread(target=self._ask, args=(random.Random(i),)) for i in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _ask(self, chance: random.Random) -> None:
        place = urlsplit(self.address)
        connection = HTTPConnection(place.hostname or "", place.port, timeout=60)
        time.sleep(chance.random() * self.think)
        while time.perf_counter() < self.until:
            started = time.perf_counter()
            try:
                body = json.dumps({"query": next(self.queries)})
                connection.request("POST", "/search", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                self.errors += answer.status != 200
            except (OSError, HTTPException):
                self.errors += 1
                connection.close()
            self.took.append(time.perf_counter() - started)
            time.sleep(chance.expovariate(1 / self.think) if self.think else 0)


def measure(address: str, queries: Sequence[str], count: int, seconds: float, think: float) -> dict[str, Any]:
    """Return answers a second, errors, and the median and 95th percentile in milliseconds."""
    clients = Clients(address, queries, count, seconds, think)
    started = time.perf_counter()
    clients.run()
    cuts = statistics.quantiles(clients.took, n=100)
    return {
        "clients": count,
        "think": think,
        "answers": len(clients.took),
        "rate": len(clients.took) / (time.perf_counter() - started),
        "errors": clients.errors,
        "p50_ms": 1000 * cuts[49],
        "p95_ms": 1000 * cuts[94],
    }


@click.command()
@click.option("--clients", default=50, show_default=True)
@click.option("--seconds", default=60.0, show_default=True)
@click.option("--think", "thinks", multiple=True, type=float, default=(1.0, 0.0), show_default=True)
@click.option("--precision", "precisions", multiple=True, default=("auto",), show_default=True)
@click.option(
    "--retriever",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=RETRIEVER,
    show_default=True,
    help="A folder; int8 needs the graph that `effir export` writes.",
)
def main(clients: int, seconds: float, thinks: Sequence[float], precisions: Sequence[str], retriever: Path) -> None:
    """Serve the apidocs set and ask its test queries."""
    collection = require(EVAL / "apidocs")
    found = open_collection(collection)
    queries = list(found.queries(found.evaluation_split()).values())
    retriever = retriever.resolve()
    rows = []
    for precision in precisions:
        index = indexed(retriever, collection, "torch" if precision == "auto" else "openvino", precision)
        with serving(index) as served:
            address = served.address
            measure(address, queries, 1, 5, 0)  # warm
            alone = measure(address, queries, 1, 15, 0)
            for row in (alone, *(measure(address, queries, clients, seconds, think) for think in thinks)):
                rows.append({"precision": precision, **row, "over_alone": row["p50_ms"] / alone["p50_ms"]})
                click.echo(str(rows[-1]))
    columns: dict[str, Callable[[Any], str]] = {
        "precision": lambda row: row["precision"],
        "clients": lambda row: str(row["clients"]),
        "seconds between questions": lambda row: f"{row['think']:g}",
        "answers a second": lambda row: f"{row['rate']:.1f}",
        "errors": lambda row: str(row["errors"]),
        "p50, ms": lambda row: f"{row['p50_ms']:.0f}",
        "p95, ms": lambda row: f"{row['p95_ms']:.0f}",
        "p50 over one client's": lambda row: f"{row['over_alone']:.2f}",
    }
    where = f"{len(queries)} queries in turn, {sum(1 for _ in found.documents()):,} documents, Flat"
    note = f"{where}; the clients run on the same cores. {seconds:g} s a row, 15 s with one client."
    settings = {"clients": clients, "seconds": seconds, "think": list(thinks)}
    save("serving", "effir serve", rows, columns=columns, notes=[note], settings=settings)


if __name__ == "__main__":
    main()

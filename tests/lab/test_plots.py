"""What DVC says of two commits: metrics, params, and plots that show where there is no network."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.screenshots import browsing, missing_programs, until
from effir.errors import EffirError
from effir.evaluation.plots import draw_loss
from effir.lab.plots_page import PAGE, write_page

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIG = ("dvc.yaml", "params.yaml", ".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore")
# Drawn in DVC's own page, by revision: two curves of two points.
LOSSES = {"before": [0.9, 0.5], "after": [0.8, 0.3]}
MISSING = missing_programs()


class Project:
    """This project's DVC configuration, with figures written by hand, in a git repository of its own."""

    def __init__(self, home: Path) -> None:
        self.root = home / "project"
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("DVC", "GIT_"))}
        who = {f"GIT_{who}_{what}": "t@test" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        places = {f"DVC_{kind}_DIR": str(home / kind) for kind in ("SITE_CACHE", "GLOBAL_CONFIG", "SYSTEM_CONFIG")}
        self.env = clean | who | places | {"DVC_NO_ANALYTICS": "1", "GIT_CONFIG_GLOBAL": os.devnull}
        for name in CONFIG:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, self.root / name)
        self.run("git", "init", "--quiet")

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.root, env=self.env, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def dvc(self, *arguments: str) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments)

    def json(self, *arguments: str) -> Any:
        return json.loads(self.dvc(*arguments, "--json"))

    def commit(self, width: float, ndcg: float, speedup: float, loss: list[float]) -> None:
        """Commit what a pipeline with ``prune.width`` leaves for DVC to show."""
        params = yaml.safe_load((self.root / "params.yaml").read_text(encoding="utf-8"))
        params["prune"]["width"] = width
        (self.root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        curve = [{"step": 5 * (i + 1), "loss": value} for i, value in enumerate(loss)]
        self.write("metrics/apidocs.json", {"ndcg_at_10": ndcg, "queries": 300})
        self.write("metrics/cost.json", {"document_speedup": speedup})
        self.write("reports/drop_order.json", [{"sublayer": "mlp", "layer": i, "change": 0.1 * i} for i in (1, 3, 2)])
        self.write("reports/finetune_full_loss.json", curve)
        self.write("reports/distill_loss.json", curve)
        self.write("reports/finetune_loss.json", curve)
        draw_loss(curve, self.root / "reports/plots/finetune_loss.png")
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", f"width {width}")

    def write(self, name: str, value: Any) -> None:
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(json.dumps(value), encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two commits, tagged; only width, quality, speed and the curves differ."""
    made = Project(tmp_path_factory.mktemp("plots"))
    made.commit(1.0, 0.5, 1.5, LOSSES["before"])
    made.run("git", "tag", "before")
    made.commit(0.5, 0.625, 1.75, LOSSES["after"])
    made.run("git", "tag", "after")
    return made


@pytest.fixture
def page(project: Project) -> Path:
    """The page of both commits' plots, with Vega inside."""
    write_page(project.root)
    project.dvc("plots", "diff", "before", "after")
    return project.root / "dvc_plots/index.html"


def test_metrics_diff_says_by_how_much_each_figure_changed(project: Project) -> None:
    found = project.json("metrics", "diff", "before", "after")
    assert found == {
        "metrics/apidocs.json": {"ndcg_at_10": {"old": 0.5, "new": 0.625, "diff": 0.125}},
        "metrics/cost.json": {"document_speedup": {"old": 1.5, "new": 1.75, "diff": 0.25}},
    }


def test_params_diff_names_the_key_that_changed_and_no_other(project: Project) -> None:
    found = project.json("params", "diff", "before", "after")
    assert found == {"params.yaml": {"prune.width": {"old": 1.0, "new": 0.5, "diff": -0.5}}}


def test_the_plots_page_loads_nothing_from_elsewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "vegaEmbed" in text
    assert not re.findall(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)\s*=\s*[\"']?(?:https?:)?//[^>]*>", text)


@pytest.mark.skipif(bool(MISSING), reason=f"no {' and no '.join(MISSING)}: install Debian's chromium, chromium-driver")
def test_the_plots_of_two_commits_show_in_a_browser_without_network(page: Path) -> None:
    with browsing() as browser:
        browser.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        browser.get_log("performance")  # of the tab that Chromium opens itself
        browser.get(page.as_uri())
        drawn = "return document.querySelectorAll('.vega-embed canvas, .vega-embed svg.marks').length"
        until(browser, lambda browser: browser.execute_script(drawn) == 4, "four drawn plots", seconds=30)
        seen = browser.execute_script("return document.body.innerText + document.body.textContent")
        pictures = "return [...document.images].map(image => image.complete && image.naturalWidth > 0)"
        until(browser, lambda browser: all(browser.execute_script(pictures)), "the pictures", seconds=30)
        assert len(browser.execute_script(pictures)) == 2  # finetune_loss.png, of each commit
        log = "".join(line["message"] for line in browser.get_log("performance"))
    assert all(text in seen for text in ("Redundancy", "Fine-tuning", "loss", "before", "after"))
    assert not re.findall(r'"url":"(https?:[^"]*)"', log)


def test_a_clone_without_the_page_has_plots_as_ever(project: Project) -> None:
    write_page(project.root)
    assert not project.run("git", "status", "--porcelain")  # neither the page nor its name is tracked
    project.run("git", "clean", "-fdxq", ".dvc", "dvc_plots")
    assert project.dvc("plots", "show").strip().endswith("dvc_plots/index.html")


def test_the_page_is_named_beside_what_config_local_says_already(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    local = tmp_path / ".dvc/config.local"
    local.write_text("['remote \"mine\"']\n    url = /srv/dvc\n[core]\n    remote = mine\n", encoding="utf-8")
    assert write_page(tmp_path) == tmp_path / PAGE
    write_page(tmp_path)  # again, over itself
    said = local.read_text(encoding="utf-8")
    assert "url = /srv/dvc" in said
    assert said.count("html_template = plots/page.html") == 1


def test_where_there_is_no_dvc_project_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(
        EffirError, match=r"is not a DVC project: run `python -m effir\.lab\.plots_page` in the project's root"
    ):
        write_page(tmp_path)


def test_a_config_local_that_dvc_cannot_read_is_named(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config.local").write_text("[core\nbroken", encoding="utf-8")
    with pytest.raises(EffirError, match=r"DVC refuses plots\.html_template .*: correct .*/\.dvc/config\.local"):
        write_page(tmp_path)


def test_an_experiment_in_a_temporary_folder_runs_with_the_page(tmp_path: Path) -> None:
    made = Project(tmp_path)
    stage = {"cmd": "cp params.yaml out.yaml", "deps": ["params.yaml"], "outs": [{"out.yaml": {"cache": False}}]}
    made.write("dvc.yaml", {"stages": {"copy": stage | {"params": ["prune.width"]}}})
    made.run("git", "add", "--all")
    made.run("git", "commit", "--quiet", "--message", "one stage")
    write_page(made.root)
    made.dvc("exp", "run", "--temp", "--name", "narrow", "-S", "prune.width=0.5")
    made.dvc("exp", "apply", "narrow")
    assert yaml.safe_load((made.root / "out.yaml").read_text(encoding="utf-8"))["prune"]["width"] == 0.5

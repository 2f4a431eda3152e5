"""`effir study` and `effir report` over the real pipeline: a fine-tuned model, cut by a list of runs, and its page."""

from typing import Any

import pytest

from tests.pipeline.conftest import Project, ran

pytestmark = pytest.mark.pipeline

STUDY = """
question: What can a fine-tuned model lose?
settings:
  model.base: .effir/teacher
  retriever.pooling: base
  retriever.query_prompt: null
  retriever.document_prompt: null
  finetune_full.steps: 4
  distill.steps: 0
  prune.width: 1.0
  finetune.steps: 0
  training.teacher: .effir/teacher
  analyze.criterion: greedy
  analyze.drop_texts: 4
runs:
  full: {prune.depth: 0}
  both-3: {analyze.sublayer: attention_or_mlp, prune.depth: 3}
  timed-3: {analyze.sublayer: attention_or_mlp, prune.depth: 3, cost.rounds: 3}
"""


def test_a_study_of_a_fine_tuned_model_runs_and_is_reported(project: Project) -> None:
    # The model that the pipeline has just made, a cut retriever, is what is cut again, and its teacher.
    project.succeed("cp", "-rL", "models/retriever", ".effir/teacher")
    (project.root / "studies/tiny.yaml").write_text(STUDY, encoding="utf-8")
    said = project.succeed(project.python, "-m", "effir.cli", "study", "studies/tiny.yaml")
    assert "both-3: tiny " in said
    found: Any = project.json("studies/results/tiny.json")
    full, cut, timed = found["rows"]
    assert (full["name"], cut["name"], timed["name"]) == ("full", "both-3", "timed-3")
    assert full["cost"]["kept_share"] == 1
    assert cut["cost"]["kept_share"] < 1
    assert len(cut["scores"]["tiny"]) == 20

    # All runs share one fine-tuned model, and a run that differs only in its last stages repeats no other.
    logs = project.root / ".effir/studies"
    cut_log, timed_log = ((logs / f"tiny-{run}-3.log").read_text(encoding="utf-8") for run in ("both", "timed"))
    assert {"teacher_scores", "finetune_full", "self_teacher_scores"}.isdisjoint(ran(cut_log))
    assert set(ran(timed_log)) & {
        "analyze",
        "distill",
        "score_channels",
        "prune_width",
        "finetune",
        "measure_cost",
    } == {"measure_cost"}
    assert timed["layers"]["dropped"] == cut["layers"]["dropped"]

    params, lock = (project.git("show", f"refs/exps/{ref}:{name}") for ref, name in _files(project))
    assert ".effir/teacher" in params
    assert "data/teacher" in lock

    again = project.succeed(project.python, "-m", "effir.cli", "study", "studies/tiny.yaml")
    assert "tiny-full:" in said
    assert "tiny-full:" not in again  # no stage ran
    assert project.json("studies/results/tiny.json") == found
    project.succeed(project.python, "-m", "effir.cli", "report")
    page = (project.root / "studies/results/tiny.md").read_text(encoding="utf-8")
    assert page.startswith("# What can a fine-tuned model lose?")
    assert (project.root / "studies/results/tiny.png").stat().st_size > 10_000
    project.succeed("git", "clean", "--force", "studies")


def _files(project: Project) -> list[tuple[str, str]]:
    listed = project.git("for-each-ref", "--format=%(refname)", "refs/exps").split()
    (ref,) = [name.removeprefix("refs/exps/") for name in listed if name.endswith("/tiny-full")]
    return [(ref, "params.yaml"), (ref, "dvc.lock")]

"""Where artifacts lie: the names that dvc.yaml uses too."""

from pathlib import Path

BASE = Path("models/base")
TUNED = Path("models/tuned")
DEPTH = Path("models/depth")
RESTORED = Path("models/restored")
WIDTH = Path("models/width")
HEALED = Path("models/healed")
RETRIEVER = Path("models/retriever")
CALIBRATION = Path("data/calibration.jsonl")
TRAIN = Path("data/train")
TEACHER = Path("data/teacher")
OWN_TEACHER = Path("data/own_teacher")
DEV = Path("data/dev")
EVAL = Path("data/eval")
INDEXES = Path("indexes")
BASELINES = Path("baselines")
REPORTS = Path("reports")
PLOTS = REPORTS / "plots"
METRICS = Path("metrics")
REDUNDANCY = REPORTS / "redundancy.json"
ORDER = REPORTS / "drop_order.json"
SLIMMING = REPORTS / "slimming.json"
TUNING = REPORTS / "tune_loss.json"
RESTORATION = REPORTS / "restore_loss.json"
LOSS = REPORTS / "finetune_loss.json"
COST = METRICS / "cost.json"

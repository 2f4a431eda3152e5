"""Where artifacts lie: the names that dvc.yaml uses too."""

from pathlib import Path

BASE = Path("models/base")
FULL = Path("models/full")
DEPTH = Path("models/depth")
DISTILLED = Path("models/distilled")
CHANNELS = Path("models/channels.safetensors")
WIDTH = Path("models/width")
FINETUNED = Path("models/finetuned")
RETRIEVER = Path("models/retriever")
CALIBRATION = Path("data/calibration.jsonl")
TRAIN = Path("data/train")
TEACHER = Path("data/teacher")
SELF_TEACHER = Path("data/self_teacher")
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
FULL_LOSS = REPORTS / "finetune_full_loss.json"
DISTILL_LOSS = REPORTS / "distill_loss.json"
LOSS = REPORTS / "finetune_loss.json"
COST = METRICS / "cost.json"

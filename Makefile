# Two commands: `make repro` runs the pipeline, `make test` runs the tests; each sets up what it needs.
PYTHON ?= python3.11
FAISS ?= cpu
PORT ?= 5000
# For tests/model/test_elsewhere.py, without what it asks for: its huggingface_hub < 2 is none that transformers 5 runs with.
LANGCHAIN := langchain-huggingface==1.2.3
VENV := .venv
READY := $(VENV)/.ready
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: setup smoke repro test test-fast chaos check bench format ui clean

setup: $(READY)

# A quick look at the whole pipeline, as the DVC experiment `smoke`. params.yaml and the committed metrics do not change.
smoke: $(READY)
	dvc exp remove --quiet smoke 2> /dev/null || true
	eval dvc exp run --temp --name smoke "$$(effir profile options smoke)" -S register.version=false
	effir compare smoke

# A DVC that was killed while it wrote a lock file left it empty; DVC would refuse to run.
repro: $(READY)
	find .dvc/tmp/rwlock dvc.lock -empty ! -newermt '-2 seconds' -delete 2> /dev/null || true
	dvc repro

# A process a core, each computing on one: most tests wait for imports and for processes that they start.
test: $(READY)
	OMP_NUM_THREADS=1 python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 12

# The tests that need no model of more than a few layers and start no pipeline.
test-fast: $(READY)
	OMP_NUM_THREADS=1 python -m pytest --quiet --numprocesses 2 --dist loadfile -m "not pipeline and not slow"

check: $(READY)
	ruff check .
	ruff format --check .
	mypy
	python -m pytest -q tests/test_graph.py

# Hundreds of kills of commands, stages and the pipeline, full disks, lost servers, damaged files; hours on two cores. It
# goes on where it was stopped. CHAOS="index export --trials 50" makes some.
CHAOS ?=
chaos: $(READY)
	python -m tests.chaos $(CHAOS)

# Speed and memory side by side, a table each; half an hour on two cores that do nothing else. BENCH="encode search"
# makes some of them. llama.cpp competes where its package is installed: pip install llama-cpp-python (builds 8 minutes).
BENCH ?= encode cut training analysis search growth startup
bench: $(READY)
	for table in $(BENCH); do python -m benchmarks.$$table || exit; done

format: $(READY)
	ruff check --fix .
	ruff format .

# PORT=5001 where 5000 is taken.
ui: $(READY)
	mlflow ui --backend-store-uri sqlite:///mlflow.db --port $(PORT)

clean:
	rm -rf $(VENV) .effir

# FAISS=gpu installs faiss-gpu instead. constraints.txt pins what CI ran. pip would compile 28,000 files on one core;
# compileall takes all, and fails for templates that are no Python.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "effir needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --no-compile --constraint constraints.txt --editable '.[$(FAISS),serve,dev]'
	$(VENV)/bin/python -m pip install --disable-pip-version-check --quiet --no-compile --constraint constraints.txt --no-deps $(LANGCHAIN)
	$(VENV)/bin/python -m compileall -qq -j 0 $(VENV)/lib || true
	$(VENV)/bin/python -m effir.lab.plots_page
	touch $(READY)

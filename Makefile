# `make demo` shows what it is good for, and `make demo-noise` the same with wrong labels.
# `make check` tells in a minute and a half whether a change is sound, `make test` in about nine
# minutes, and `make test-all` checks everything, as CI does.
.PHONY: demo demo-noise lint check test test-all test-here test-slurm format clean
.NOTPARALLEL:

PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS := 1

# What `demo` adds where trackio is installed: `.venv/bin/pip install trackio`.
HAS_TRACKIO = import importlib.util as i, sys; sys.exit(not i.find_spec("trackio"))
TRACKIO = $(shell $(BIN)/python -c '$(HAS_TRACKIO)' && echo tracking.trackio=true)

demo: .venv/installed
	$(BIN)/rwp-dist shards mnist --out data/mnist
	$(BIN)/rwp-launch sweep configs/mnist.yaml $(TRACKIO) --nproc 2 --seeds 5 --dir runs/demo
	$(BIN)/rwp-dist compare runs/demo --against sam --out runs/demo
	@$(if $(TRACKIO),echo "Curves: TRACKIO_DIR=runs/demo/trackio $(BIN)/trackio show --project rwp-dist",:)

demo-noise: .venv/installed
	$(BIN)/rwp-dist shards digits --out data/digits
	$(BIN)/rwp-launch sweep configs/digits.yaml --nproc 2 --seeds 3 --dir runs/demo-noise
	$(BIN)/rwp-dist compare runs/demo-noise --against sam --out runs/demo-noise

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint
	$(BIN)/pytest -n 2 -m "not slow"

test: lint
	$(BIN)/pytest -n 2 -m "not long"

test-all: test-here test-slurm

test-here: lint
	$(BIN)/pytest -n 2 --ignore=tests/slurm

test-slurm: lint
	$(BIN)/pytest tests/slurm  # one after another, because they share a cluster

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .[demo]
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .[dev]
	touch $@

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache

# The one door for developers; CI calls the same targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DOCS := $(VENV)/.docs
DEVICES := $(VENV)/.devices
# What a newcomer adds to `make run`, for example RUN="logger=wandb seed=1".
RUN ?=
# Options of `make bench-users` and `make bench-devices`.
BENCH ?=

.DEFAULT_GOAL := help
.PHONY: help run digits photos test test-all test-cluster test-devices faults lint format docs bench bench-users bench-devices dist clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */|/' | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

$(READY): pyproject.toml
	@echo "making $(VENV): PyTorch and what else is needed, 1 to 10 minutes by the network; next time it is there"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --editable '.[dev]'
	touch $@

run: $(READY)  ## the main jobs on embedded data, both at the same time: tables and figures
	@PATH="$(CURDIR)/$(BIN):$$PATH" experiments/run.sh $(RUN)

digits: $(READY)  ## ten methods on embedded digits, three seeds
	$(BIN)/python -m dua_lightning +experiment=digits $(RUN)

photos: $(READY)  ## Table 4 in small, on embedded photographs: no adaptation, AdaBN and AdaBN-S for ten users
	$(BIN)/python -m dua_lightning +experiment=photos $(RUN)

test: $(READY)  ## the tests, in two processes
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: $(READY)  ## the tests, slow ones too
	$(BIN)/python -m pytest -m 'not devices'

test-cluster: $(READY)  ## sweeps in several processes and on a real SLURM of one node, installed where root may
	bash tests/cluster/slurm.sh install
	$(BIN)/python -m pytest -m '' tests/cluster

$(DEVICES): $(READY)
	$(BIN)/pip install --disable-pip-version-check --editable '.[federation,export]'
	touch $@

test-devices: $(DEVICES)  ## a real server and real devices on this machine: killed, unknown and lying ones too
	$(BIN)/python -m pytest -m devices

faults: $(READY)  ## kill runs, fail their writes, and give them random settings and damaged files: is anything lost?
	$(BIN)/python -m tests.faults

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(READY)  ## let ruff repair what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

$(DOCS): $(READY)
	$(BIN)/pip install --disable-pip-version-check --editable '.[docs]'
	touch $@

docs: $(DOCS)  ## the documentation site, in site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(READY)  ## time and memory of the hot paths against their lower bounds
	$(BIN)/python benchmarks/hot_paths.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/training.py --network conv

bench-users: $(READY)  ## time and memory for each of up to 10,000 users; BENCH="--most 1000" for fewer
	$(BIN)/python benchmarks/users.py $(BENCH)

bench-devices: $(DEVICES)  ## 1,000 devices against one server that is killed in the middle; BENCH="--devices 100" for fewer
	$(BIN)/python benchmarks/federation.py $(BENCH)

dist: $(READY)  ## sdist and wheel in dist/, as a release has them
	rm -rf dist
	$(BIN)/python -m build --no-isolation

clean:  ## remove the environment and caches; runs and data stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist site

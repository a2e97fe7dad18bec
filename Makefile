# Every command a reader needs. `make help` lists them; ARGS passes further words on.
VENV   ?= .venv
PYTHON := $(VENV)/bin/python
SCALE  ?= paper
ARGS   ?=
ALL    := table1 table2 table3 table4 table5 table6 table7 table8 table9 table10 table11 table12 table13 mp_init
STAMP  := $(VENV)/.snnrepro-installed

ifneq ($(words $(VENV)),1)
$(error VENV='$(VENV)': make knows no folders with spaces or without a name; set VENV to another one)
endif

.DEFAULT_GOAL := help
.PHONY: help setup train test test-all test-fast bench lint readme clean-runs plan claims reproduce report $(ALL)

help:  ## list the commands
	@awk -F':.*## ' '/^[a-z0-9_ -]+:.*## /{printf "  make %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create the virtual environment and install (once; again when pyproject.toml changes)

$(STAMP): pyproject.toml
	@command -v python3 >/dev/null || { echo "error: python3 not found; install Python 3.11 or newer"; exit 1; }
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: Python 3.11 or newer is needed, python3 is $$(python3 -V)"; exit 1; }
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --upgrade-strategy only-if-needed --editable '.[dev]'
	touch $@

train: setup  ## train the embedded default: handwritten digits, about a minute (ARGS="neuron=lif epochs=5")
	$(PYTHON) train.py $(ARGS)

test: setup lint  ## set up, lint, run the tests, on all cores
	$(PYTHON) -m pytest -n auto --dist worksteal -m "not full" $(ARGS)

test-all: setup lint  ## the same, with the kernels on every architecture and in every layout
	$(PYTHON) -m pytest -n auto --dist worksteal $(ARGS)

bench: setup  ## gate, then measure against SpikingJelly, snnTorch, eager and ReLU, 25 minutes (ARGS=--quick: 3)
	$(PYTHON) -m pip install --quiet --upgrade-strategy only-if-needed --editable '.[dev,bench]'
	$(PYTHON) -m scripts.bench $(ARGS)

test-fast: setup  ## run the tests that take seconds
	$(PYTHON) -m pytest -n auto --dist worksteal -m "not slow and not dist" $(ARGS)

lint: setup  ## check style and types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

$(ALL): setup  ## plan, run and render a table of the paper (SCALE=mini: embedded data, minutes)
	$(PYTHON) -m snnrepro table $@ --scale $(SCALE) $(ARGS)

plan: setup  ## runs and hours that are still needed (SCALE=mini TABLES="1 2 10 claims figures", or all)
	$(PYTHON) -m snnrepro plan $(TABLES) --scale $(SCALE) $(ARGS)

claims: setup  ## judge the paper's claims by our runs, which are made where missing (SCALE=mini)
	$(PYTHON) -m snnrepro claims --scale $(SCALE) --run $(ARGS)

reproduce: setup  ## all tables, claims and figures, each run once (SCALE=mini: two hours on 2 cores); go on after an interruption
	for table in $(ALL); do $(PYTHON) -m snnrepro table $$table --scale $(SCALE) $(ARGS) || exit $$?; done
	$(PYTHON) -m snnrepro claims --scale $(SCALE) --run $(ARGS)
	$(PYTHON) -m snnrepro figure all --run --scale $(SCALE) $(ARGS)
	$(PYTHON) -m snnrepro report --scale $(SCALE) $(ARGS)

report: setup  ## tables, claims and figures that exist, on one HTML page
	$(PYTHON) -m snnrepro report --scale $(SCALE) $(ARGS)

readme: setup  ## write the mini results into README.md
	$(PYTHON) -m snnrepro table table10 --scale mini --readme README.md
	$(PYTHON) -m snnrepro table mp_init --scale mini --readme README.md

clean-runs:  ## remove all run folders (results!)
	rm -rf outputs/runs

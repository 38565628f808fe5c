# `make` lists the targets. PYTHON chooses the interpreter, VENV the folder of the virtual environment.
PYTHON ?= python3
VENV ?= .venv
BIN := $(CURDIR)/$(VENV)/bin
export PATH := $(BIN):$(PATH)
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup repro test test-long test-all portable lint format check smoke benchmarks gpu readme leaderboard hooks lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

setup: $(INSTALLED)  ## create the environment from requirements.lock, and check the hashes

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv $(VENV)
	@echo "Installing from requirements.lock into $(VENV); this takes a minute or two the first time."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

repro: setup  ## run the pipeline (dvc repro) and print the path of the report
	@PYTHONPATH=src python -m bitsperdim.preflight params.yaml
	@PYTHONPATH=src python -m bitsperdim.core.git --dvc
	@dvc repro
	@echo "Report: $(CURDIR)/report/index.html"

test: setup  ## run all tests that are not marked `long`
	@python -m pytest -n auto --maxprocesses 8 --dist worksteal -m "not long"

test-long: setup  ## run the tests that are marked `long`
	@python -m pytest -n auto --maxprocesses 8 --dist worksteal -m "long"

test-all: test test-long  ## run all tests

portable: setup  ## run the tests marked `processor` with the rounding of other processors (ten minutes)
	@PYTHONPATH=src:tests python tests/support/portable.py

lint: setup  ## check style, annotations, docstrings and types
	@ruff check .
	@ruff format --check .
	@mypy

format: setup  ## reformat the code
	@ruff check --fix .
	@ruff format .

check: setup  ## rerun the last commit from scratch and compare with its metrics, within tolerances
	@.ci/rerun

smoke: setup  ## run the pipeline of the last commit in a copy, with parameters that take seconds
	@.ci/rerun --small

benchmarks: setup  ## measure training, sampling, likelihoods and importance sampling (about half an hour)
	@for name in throughput sampling training_pixelcnn_pp training_vae steps exact_likelihoods importance_sampling refined_proposals; do PYTHONPATH=src python benchmarks/$$name.py; done

gpu: setup  ## run the tests that need a GPU, and the benchmarks on the GPU
	@python -m pytest -n 4 tests/runtime/test_gpu.py -rs
	@PYTHONPATH=src python benchmarks/importance_sampling.py --gpu
	@PYTHONPATH=src python benchmarks/throughput.py
	@PYTHONPATH=src python benchmarks/steps.py

readme: setup  ## write the numbers in the README from results/, recipes/results/ and docs/
	@PYTHONPATH=src python -m bitsperdim.readme .

leaderboard: readme  ## do `make readme`, and print published numbers beside our own
	@PYTHONPATH=src python -m bitsperdim.cli recipe

hooks: setup  ## install the pre-commit hooks, which run what `make lint` runs
	@test -e .git || { echo "Hooks belong to a whole repository, but $(CURDIR) is not the top folder of one." >&2; exit 1; }
	@pre-commit install

lock:  ## resolve requirements.lock again from pyproject.toml (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --group dev pyproject.toml -o requirements.lock --custom-compile-command "make lock"

clean:  ## remove the environment and the caches of tools; results and DVC's cache stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build src/*.egg-info

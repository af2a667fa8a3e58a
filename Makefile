# The two commands that matter: `make demo` and `make test`. Both set everything up first.
#
# Variables: PYTHON (interpreter to build .venv with; default: the first python3 that is 3.11 or
# newer), VENV (.venv), TORCH (auto, cpu or cuda: see .ci/setup.sh), JOBS (2: processes that run
# tests), PYTEST_ARGS.
VENV ?= .venv
JOBS ?= 2
BIN  := $(VENV)/bin
PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --max-worker-restart 0
export VENV PYTHON TORCH
export FACESEARCH_EVAL_DATA ?= $(wildcard $(CURDIR)/../shared/data)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-ray lint bench lock clean

help:   ## show this
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: $(VENV)/.ready  ## create .venv with everything (system libraries too, where allowed)

$(VENV)/.ready: requirements.lock pyproject.toml .ci/setup.sh
	@bash .ci/setup.sh
	@touch $@

demo: setup     ## ingest, enrol and identify on the bundled photos; writes demo-out/
	$(BIN)/facesearch demo --output demo-out

test: setup     ## run the tests
	$(PYTEST) $(PYTEST_ARGS)

test-ray: setup  ## run the tests that need Ray, which they start (a minute)
	$(BIN)/python -m pip install --quiet --constraint requirements.lock 'ray[data]==2.60.0'  # 80 MB
	FACESEARCH_TEST_RAY=1 $(PYTEST) tests/ingest/test_ray.py

lint: setup     ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup    ## run the benchmarks (quiet machine, half an hour); records in benchmarks/records/
	$(BIN)/python -m pip install --quiet --constraint requirements.lock -r benchmarks/requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps autofaiss embedding-reader  # ask for numpy 1
	$(BIN)/python -m benchmarks.run

lock:           ## rewrite requirements.lock with the newest versions that pyproject.toml allows
	@bash .ci/lock.sh

clean:          ## remove what setup, demo and tests made
	rm -rf $(VENV) demo-out .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage

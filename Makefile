# Everything starts here. On a fresh machine only Python 3.11+ and make are needed.
PYTHON ?= python3
BIN := .venv/bin
STORE ?= demo-store

.PHONY: venv demo test quick lint ledger bench chaos test-cluster clean

venv: .venv/ready

.venv/ready: constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"efface needs Python 3.11 to 3.13, found {v[0]}.{v[1]}; type: make venv PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch .venv/ready

demo: venv ## the main job on real images: sweep on Ray, then tables
	$(BIN)/efface sweep demo --store $(STORE) $(DEMO_FLAGS)
	$(BIN)/efface tables demo --store $(STORE) $(DEMO_FLAGS)

test: venv ## all tests, those with real processes too
	$(BIN)/python -m pytest -n auto -m 'not slow'
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m slow

quick: venv ## the tests that start no Ray
	$(BIN)/python -m pytest -n auto -m 'not slow'

lint: venv ## style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: venv ## speed, as ratios of interleaved runs
	$(BIN)/python -m tests.bench

chaos: venv ## 300 runs while workers, machines and drivers are killed; then on an S3 server that fails
	$(BIN)/python -m tests.chaos
	$(BIN)/python -m tests.chaos --runs 60 --kills 8 --s3 0.2 --seconds 240

test-cluster: venv ## a real cluster on three pseudo-hosts over SSH; as root; APT=1 installs what it needs
	$(BIN)/python -m tests.cluster.launch $(if $(APT),--apt)

ledger: venv ## methods/README.md from ledger.toml, the code and what was measured
	$(BIN)/efface ledger > methods/README.new
	mv methods/README.new methods/README.md

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache

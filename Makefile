# The workflow, in order. PYTHON names the interpreter that makes .venv: any of 3.11 to 3.13.
PYTHON ?= python3
BIN = .venv/bin
EPOCHS_SCALE = 1
ONLY =
WORKERS = {"worker": ["127.0.0.1:4711", "127.0.0.1:4712"]}

# With this variable, as with python -P, a script cannot import the modules that lie beside it.
unexport PYTHONSAFEPATH

.PHONY: help demo workers test faults style report benchmark clean

help:  ## list what make can do
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST)

.venv/installed: requirements.txt
.venv/installed-dev: .venv/installed requirements-dev.txt
.venv-benchmark/installed: requirements.txt requirements-benchmark.txt

.venv/installed .venv/installed-dev .venv-benchmark/installed:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "this needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is $$($(PYTHON) --version 2>&1); try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "installing the packages into $(@D): up to 2.5 GB, some minutes"
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $(lastword $^)
	@touch $@

demo: .venv/installed  ## train on MNIST for 20 epochs and draw what the model learned
	$(BIN)/python train.py --num_epochs 20 --restore True
	$(BIN)/python make_pictures.py
	@echo "to go on, activate the environment:  . $(BIN)/activate"

# A run that is there already would not be trained again, so it is a new one each time, away from the user's.
workers: .venv/installed  ## train on the digits with two workers on this machine, into a temporary folder; see docs/distributed.md
	@folder=$$(mktemp -d) || exit 1; \
	start() { \
		export TF_CONFIG="{\"cluster\": $$CLUSTER, \"task\": {\"type\": \"worker\", \"index\": $$1}}"; \
		exec $(BIN)/python train.py --dataset digits --num_epochs 20 --checkpoints_dir "$$folder" --pictures_dir "$$folder"; \
	}; \
	CLUSTER='$(WORKERS)'; start 0 & zero=$$!; start 1 & one=$$!; \
	trap 'kill $$zero $$one 2>/dev/null; wait' EXIT INT TERM; \
	while kill -0 $$zero && kill -0 $$one; do sleep 1; done 2>/dev/null; \
	if kill -0 $$zero 2>/dev/null; then wait $$one && wait $$zero; else wait $$zero && wait $$one; fi

test: .venv/installed-dev  ## run the test suite; no network, no data needed
	$(BIN)/python -m pytest

faults: .venv/installed-dev  ## run the slow tests: more cases, several workers, kills, full disks, fuzzing, the whole report
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m pytest tests/faults

# Who imports whom is written in pyproject.toml, under [tool.importlinter].
style: .venv/installed-dev  ## run the linters ruff, import-linter and ESLint (if npm is installed), the formatter ruff and the type checker mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports --no-logo --no-cache
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory explorer/node_modules && npm --prefix explorer run --silent lint; \
		elif command -v node >/dev/null; then for file in explorer/*.js; do node --check $$file || exit 1; done; \
		else echo "npm is not installed, so the JavaScript was not checked"; fi

# No lock file is written, because it would record the addresses of the registry that the packages came from.
explorer/node_modules: explorer/package.json
	npm --prefix explorer install --silent --no-audit --no-fund --package-lock=false
	@touch $@

report: .venv/installed  ## train, evaluate and draw the whole report into docs/ and RESULTS.md; EPOCHS_SCALE=0.01 for a quick look, ONLY="mnist svhn" for some
	$(BIN)/python reproduce.py --epochs_scale $(EPOCHS_SCALE) $(if $(ONLY),--only $(ONLY)) $(REPORT_FLAGS)

benchmark: .venv/installed .venv-benchmark/installed  ## compare the speed with PyTorch, JAX, Keras and the machine's limit, into benchmarks/RESULTS.md; 40 to 75 minutes, 8 GB, a C++ compiler
	.venv-benchmark/bin/python -m benchmarks.run

clean:  ## remove the environments and caches; data, checkpoints and pictures stay
	rm -rf .venv .venv-benchmark .pytest_cache .ruff_cache .mypy_cache explorer/node_modules

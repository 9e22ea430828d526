# `make demo` and `make test` work from a clean clone with Python 3.11 or later, git and make.
PYTHON ?= python3
BIN := .venv/bin
SETUP := .venv/.setup-done

.PHONY: setup lock demo test lint build bench clean

setup: $(SETUP)

# Runs again when what is to be installed has changed.
$(SETUP): pyproject.toml requirements.lock tools/system_packages.sh
	sh tools/system_packages.sh
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[all]' --group dev
	touch $@

# Every version that `setup` installs, for all platforms. Those in the lock stay unless pyproject.toml
# asks for others; `make lock UPGRADE=--upgrade` takes the newest. Needs no `setup`, which the lock is for.
lock:
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url \
		--custom-compile-command "make lock" $(UPGRADE) \
		--extra all --group dev --output-file requirements.lock pyproject.toml

demo: $(SETUP)
	$(BIN)/i2am demo --out i2am-demo --overwrite

# Two files at a time; a file's tests share what takes long to make.
test: $(SETUP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(SETUP)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/codespell
	$(BIN)/lint-imports
	$(BIN)/mypy

# Wheel and sdist in dist/; the wheel is installed and tried outside the checkout.
build: $(SETUP)
	$(BIN)/python tools/check_wheel.py

# Three quarters of an hour on a machine that does nothing else; benchmarks/README.md says what each prints.
bench: $(SETUP)
	$(BIN)/python benchmarks/capture_overhead.py
	$(BIN)/python benchmarks/store_write.py
	$(BIN)/python benchmarks/store_read.py
	$(BIN)/python benchmarks/analysis_speed.py
	$(BIN)/python benchmarks/analysis_speed.py --workers
	$(BIN)/python benchmarks/analysis_memory.py
	$(BIN)/python benchmarks/viewer_latency.py

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis i2am-demo

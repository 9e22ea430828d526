# `make demo` and `make test` work from a clean clone with Python 3.11 or later, git and make.
PYTHON ?= python3
# How many test files run at a time; on two cores a third one runs while others wait.
JOBS ?= 3
BIN := .venv/bin
SETUP := .venv/.setup-done
LOWEST := .venv-lowest
PYSIDE := .venv-pyside6
# Tests and sweeps start dozens of processes; each would compile everything anew.
export PYTHONDONTWRITEBYTECODE :=
# Numba's threads, which napari's compiled loops start, give PyTorch as many on the thread that
# starts them: a model there differs in its last bits from the same on another.
# A process that changes from NumPy to compiled arithmetic in the middle of its work gives other last
# bits afterwards; the tests of compiled arithmetic ask for it.
ONE_THREAD := OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 I2AM_ARITHMETIC=numpy

.PHONY: setup lock demo test test-lowest test-pyside6 faults lint docs page build bench clean

setup: $(SETUP)

# Runs again when what is to be installed has changed.
$(SETUP): pyproject.toml requirements.lock tools/system_packages.sh
	sh tools/system_packages.sh
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[all]' --group dev
	touch $@

# Every version that `setup` installs, for all platforms, and the lowest that pyproject.toml allows
# of each direct dependency. Versions in the locks stay where they may; `make lock UPGRADE=--upgrade`
# chooses anew. Needs no `setup`, which may not run before the lock is right.
COMPILE = $(BIN)/uv pip compile --quiet --python-version 3.11 --no-emit-index-url \
	--custom-compile-command "make lock" $(UPGRADE) --extra all --group dev pyproject.toml

lock:
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	$(COMPILE) --universal --output-file requirements.lock
	$(COMPILE) --resolution lowest-direct --python-platform linux --only-binary :all: \
		--output-file requirements-lowest.lock

demo: $(SETUP)
	$(BIN)/i2am demo --out i2am-demo --overwrite

# A file's tests share what takes long to make. The order of the files is that of tests/conftest.py.
test: $(SETUP)
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# The same with the lowest versions that pyproject.toml allows, on the lowest Python. Only torch is
# the one of `setup`: PyPI's build of its lower bound, 2.7, brings several GB of CUDA. Old packages
# use what newer ones have deprecated since (matplotlib 3.9 of pyparsing, say): not ours to mend.
test-lowest: $(LOWEST)/.setup-done
	$(ONE_THREAD) $(LOWEST)/bin/python -m pytest -n $(JOBS) --dist loadfile \
		--no-loadscope-reorder -W ignore::DeprecationWarning

$(LOWEST)/.setup-done: pyproject.toml requirements-lowest.lock tools/system_packages.sh
	sh tools/system_packages.sh
	test -x $(LOWEST)/bin/python || python3.11 -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(LOWEST)/bin/python -m pip install --quiet --constraint requirements-lowest.lock \
		--editable '.[all]' --group dev
	touch $@

# The viewer's tests with the other Qt binding: once a release. PySide6 warns of connections that are
# gone with their widget; pytest-qt makes such, and so does napari. PySide6 6.12.0 ended Python 3.11 in
# a long file of tests ("none_dealloc: deallocating None"); 6.10 did not.
test-pyside6: $(PYSIDE)/.setup-done
	QT_API=pyside6 $(ONE_THREAD) $(PYSIDE)/bin/python -m pytest -n $(JOBS) --dist loadfile \
		--no-loadscope-reorder -o qt_api=pyside6 -W "ignore:.*libpyside.*:RuntimeWarning" tests/viewer

$(PYSIDE)/.setup-done: pyproject.toml requirements.lock tools/system_packages.sh
	sh tools/system_packages.sh
	test -x $(PYSIDE)/bin/python || $(PYTHON) -m venv $(PYSIDE)
	$(PYSIDE)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	grep -v -i '^pyqt6' requirements.lock > $(PYSIDE)/constraints.txt
	$(PYSIDE)/bin/python -m pip install --quiet --constraint $(PYSIDE)/constraints.txt \
		--editable '.[viewer]' 'napari[pyside6]' 'pyside6<6.11' hypothesis 'moto[server]' pytest pytest-qt \
		pytest-randomly pytest-xdist
	touch $@

# Everything that may happen to a store: what was tried, how often, and what became of it. CI tries
# one round, in about two minutes; the default takes an hour.
ROUNDS ?= 25
SEED ?= 0

faults: $(SETUP)
	$(ONE_THREAD) $(BIN)/python tools/faults.py --rounds $(ROUNDS) --seed $(SEED)

# The list of checks is in .pre-commit-config.yaml. Files that git does not know are not looked at.
lint: $(SETUP)
	$(BIN)/pre-commit run --all-files --show-diff-on-failure

# The site in build/html: a warning is an error, and nothing is fetched. `make clean` starts it anew.
# Its notebooks run for some minutes the first time; CI, whose tests run them, has NOTEBOOKS=off.
NOTEBOOKS ?= auto

docs: $(SETUP)
	$(BIN)/sphinx-build --builder html --fail-on-warning --keep-going --quiet \
		--define nb_execution_mode=$(NOTEBOOKS) --doctree-dir build/doctrees docs build/html
	@echo "The site: build/html/index.html"

# The page's TypeScript, checked, built into page/static and tested. Needs Node.js 20 or later, which
# nothing else does: what is built is committed, and the same sources give the same bytes.
page:
	cd page/web && npm ci --no-progress && npm run check && npm run build && npm test

# Wheel and sdist in dist/; the wheel is installed and tried outside the checkout.
build: $(SETUP)
	$(BIN)/python tools/check_wheel.py

# An hour on a machine that does nothing else; figures are kept, and pages rendered from them, as
# benchmarks/README.md says. CI only sees whether they work: QUICK=--quick.
QUICK ?=

bench: $(SETUP)
	$(BIN)/python benchmarks/run_all.py $(QUICK)

clean:
	rm -rf page/web/node_modules page/web/build .venv $(LOWEST) $(PYSIDE) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis i2am-demo

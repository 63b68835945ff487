# Two commands do everything: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= outputs/demo
PYTEST ?=  # more options for pytest

.PHONY: demo quick test faults fuzz attacks kills ray lint docs screenshots clean

demo: $(VENV)/demo.stamp
	$(BIN)/generate -f prompts/demo.txt -o $(OUT)
	@echo "The images are in $(OUT); begin with $(OUT)/sheet.png"

# One process of tests for each core, with one thread each: more threads would wait for one another.
test: $(VENV)/test.stamp lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(PYTEST)

# A first look, without the page and the trainings; `make test` is what has to pass.
quick: $(VENV)/test.stamp lint
	$(BIN)/python -m pytest -m "not slow" --ignore=tests/ui --ignore=tests/train $(PYTEST)

# What may go wrong, row by row, with the tests that hold each.
faults: $(VENV)/test.stamp
	PYTHONPATH=. $(BIN)/python tests/test_faults.py $(PYTEST)

# Every parser of what strangers send, for an hour; `make test` does it for half a minute.
fuzz: $(VENV)/test.stamp
	FUZZ_SECONDS=$${FUZZ_SECONDS:-3600} $(BIN)/python -m pytest --timeout 0 -s tests/fuzz $(PYTEST)

# The server under each attack that we know, and ended during each; `make test` tries a few.
attacks: $(VENV)/test.stamp
	ATTACK_SECONDS=$${ATTACK_SECONDS:-10} $(BIN)/python -m pytest --timeout 0 -s tests/ui/test_attacks.py $(PYTEST)

# A hundred plain runs killed, fifty searches and edits, and the server fifty times while it draws;
# `make test` does a few of each.
kills: $(VENV)/test.stamp
	KILLS=$${KILLS:-100} OMP_NUM_THREADS=1 $(BIN)/python -m pytest --timeout 0 -s tests/gen/test_kills.py \
		tests/ui/test_kills.py $(PYTEST)

# Actors of a Ray cluster of two nodes; Ray is larger than all else that tests need.
ray: $(VENV)/test.stamp
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[ray]"
	WITH_RAY=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --timeout 0 tests/gen/test_ray.py \
		tests/rerank/test_ray_data.py $(PYTEST)

lint: $(VENV)/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What the manual shows of the page; needs Chromium.
screenshots: $(VENV)/test.stamp
	PYTHONPATH=. $(BIN)/python tests/ui/screenshots.py

docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "The manual is in site/; begin with site/index.html"

$(VENV)/demo.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[ui]"
	@touch $@

$(VENV)/test.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[ui,test]"
	$(BIN)/python -m pip install --quiet --no-deps sd-prompt-reader==1.3.5
	@touch $@

$(VENV)/docs.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	@touch $@

clean:
	rm -rf $(VENV) outputs site

# Two commands are enough on a new machine: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-full test-fast check bench docs cards lock clean

setup: $(READY)

$(READY): requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: setup ## the main job, end to end: build, verify, compare, publish to a Hub on loopback, load from there and verify again
	$(BIN)/hubpub build recipes/whisper-tiny.en.yaml --locked
	$(BIN)/hubpub verify dist/whisper-tiny.en
	$(BIN)/python demo/side_by_side.py dist/whisper-tiny.en
	$(BIN)/python demo/rehearse.py dist/whisper-tiny.en

test: check ## all tests; the slow ones are named in the output
	$(BIN)/python -m pytest --durations=15
	@echo "left out: the tests marked full (gigabytes, minutes); make test-full runs them"

test-full: setup ## the tests at the size of the real models
	$(BIN)/python -m pytest -m full

test-fast: setup
	$(BIN)/python -m pytest -m "not slow and not registry and not full"

check: setup ## style, types, architecture, generated docs, workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check
	$(BIN)/zizmor --offline --quiet .github/workflows
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

docs: setup ## write what is generated from the code
	$(BIN)/python docs/generate.py

bench: setup ## each claim beside the tool that a user would pick instead; writes bench/RESULTS.md
	$(BIN)/python bench/run.py

lock: setup ## resolve the development environment anew
	$(BIN)/uv pip compile pyproject.toml --extra asr --extra coreml --extra datasets --extra hub --extra tts --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet -o requirements/dev.txt

cards: setup ## the cards as last rendered, one per recipe
	for release in dist/*/README.md; do cp "$$release" "model_cards/$$(basename "$$(dirname "$$release")").md"; done

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

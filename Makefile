# make demo       the whole chain on synthetic images; make test; make test-slow
PYTHON ?= python3
BIN := .venv/bin
DEMO := --category washer
export PYTHONUNBUFFERED := 1

.PHONY: demo install lint test test-slow benchmark clean

demo: install
	$(BIN)/python -m converters.sample --to data/sample --overwrite
	$(BIN)/python -m converters.describe --root data/sample --category all
	$(BIN)/python -m converters.preview --root data/sample $(DEMO) --overwrite
	$(BIN)/python -m converters all --root data/sample $(DEMO) --overwrite
	$(BIN)/python -m converters.verify datasets_out/washer
	$(BIN)/python finetune/normality.py $(DEMO) --weights none --overwrite
	$(BIN)/python finetune/classifier.py $(DEMO) --weights none --attempt pretext --imbalance oversample --overwrite
	$(BIN)/python finetune/yolo.py $(DEMO) --weights none --epochs 40 --imgsz 192 --lr 0.002 --overwrite
	$(BIN)/python finetune/compare.py $(DEMO)
	@echo
	@echo "datasets_out/washer        the dataset in five formats; card.md says what is in it"
	@echo "previews/washer            contact sheets: image, mask, boxes, polygons"
	@echo "runs/washer/*/seed-0       the runs: run.json, predictions, weights"
	@echo "runs/washer/report         open index.html: all models on the same test images"
	@echo "The classifier leads on images that its recipe was found on, test included: docs/measurements/classifier.md"

install: .venv/installed

.venv/installed: setup.cfg constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,dev]'
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -m 'not slow'

test-slow: install
	$(BIN)/python -m pytest -m slow

benchmark: install
	$(BIN)/python benchmarks/convert.py data/sample/washer

clean:
	rm -rf .venv data/sample datasets_out/washer previews runs

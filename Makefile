# make demo       the whole chain on synthetic images; make test; make test-slow
PYTHON ?= python3
BIN := .venv/bin
EXTRAS ?= train,yolo,dev
DEMO := --category washer
export PYTHONUNBUFFERED := 1

.PHONY: demo install lint test test-slow benchmark results clean

demo: install
	$(BIN)/python -m converters.sample --to data/sample --overwrite
	$(BIN)/python -m converters.describe --root data/sample --category all
	$(BIN)/python -m converters.preview --root data/sample $(DEMO) --overwrite
	$(BIN)/python -m converters all --root data/sample $(DEMO) --overwrite
	$(BIN)/python -m converters.verify datasets_out/washer
	$(BIN)/python finetune/normality.py $(DEMO) --overwrite
	$(BIN)/python finetune/normality.py $(DEMO) --overwrite --labels class --run types
	$(BIN)/python finetune/classifier.py $(DEMO) --overwrite --imgsz 256
	if $(BIN)/python -c 'import ultralytics' 2>/dev/null; \
	then $(BIN)/python finetune/yolo.py $(DEMO) --overwrite --crop 128 --imgsz 128 --batch 8 --lr 0.002 --epochs 16; \
	else echo "ultralytics is not installed: the demo leaves YOLO out"; fi
	$(BIN)/python finetune/sam_decoder.py $(DEMO) --overwrite --arch lite0 --views 1 --epochs 4 --batch 4 --lr 5e-4
	$(BIN)/python finetune/compare.py $(DEMO)
	@echo
	@echo "datasets_out/washer        the dataset in five formats; card.md says what is in it"
	@echo "previews/washer            contact sheets: image, mask, boxes, polygons"
	@echo "runs/washer/*/seed-0       the runs: run.json, predictions, weights"
	@echo "runs/washer/report         open index.html: all models on the same test images"

install: .venv/installed

.venv/installed: setup.cfg constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/reuse lint --quiet

test: lint
	$(BIN)/python -m pytest -m 'not slow'

test-slow: install
	$(BIN)/python -m pytest -m slow

benchmark: install
	$(BIN)/python benchmarks/convert.py data/sample/washer

results: install
	$(BIN)/python benchmarks/results.py

clean:
	rm -rf .venv data/sample datasets_out/washer previews runs

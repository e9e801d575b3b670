# Everything runs in .venv, made on first use with the tested pins of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/demo
# TensorRT's Python bindings, which tests hold our use of them against; TensorRT itself needs a GPU and is not installed
BINDINGS := tensorrt_cu12_bindings==10.3.0 tensorrt_cu13_bindings==10.16.1.11 tensorrt_cu13_bindings==11.4.0.106

# the oldest ONNX Runtime that graphs for CPUs are promised to run on
FLOOR := onnxruntime==1.23.2

.PHONY: help demo test check ablation paradigms realsize clean

help:  ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/ready  ## digits → training → bundle with certificate → search without PyTorch → runs/demo/index.html
	$(BIN)/lame-export demo $(RUN)

test: check  ## ruff, mypy and pytest
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --durations=8

check: $(VENV)/ready  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

ablation: $(VENV)/ready  ## what the reason tokens bring: every arm, three seeds, table and plot in runs/ablation (hours; goes on where it stood)
	$(BIN)/lame-train ablation runs/ablation --processes 2

paradigms: $(VENV)/ready  ## LaME timed against a plain embedder, latent rollout and explicit chain of thought, in runs/paradigms
	$(BIN)/lame-train paradigms --out runs/paradigms

realsize: $(VENV)/ready  ## 2 B parameters of two families: export, plan, embed; time, peak memory, cosine (50 minutes, 25 GB of disk)
	rm -rf runs/realsize
	$(BIN)/python lame_export/benchmarks/realsize.py runs/realsize
	rm -rf runs/realsize

clean:  ## removes .venv and runs
	rm -rf $(VENV) runs

$(VENV)/ready: constraints.txt pyproject.toml runtime/pyproject.toml training/pyproject.toml lame_export/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt pip torch hatchling
	$(BIN)/python -m pip install --quiet -c constraints.txt -e 'runtime[onnxruntime,pdf,video]' -e training -e 'lame_export[graph,tensorrt-rtx]' -e '.[test]'
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt --target $(VENV)/oracle --upgrade torchvision
	for binding in $(BINDINGS); do $(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/bindings/$${binding#*==} --upgrade $$binding || exit 1; done
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/floor --upgrade $(FLOOR)
	touch $@

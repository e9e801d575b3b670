"""Runs the soak: `python -m soak --requests 100000`."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import psutil

TESTS = Path(__file__).parent.parent
sys.path.insert(0, str(TESTS / "serving"))  # for what the tests of the server send

from running_server import TINY, load_tiny  # noqa: E402

from soak.mixed_requests import mixed_requests  # noqa: E402
from soak.soak_clients import Seen, run_clients  # noqa: E402

DISTINCT = 2_000
"""Requests that are made; they are sent again and again."""
MOST_GROWTH = 0.05


def figure(url: str, name: str) -> float:
    """Returns one of the server's figures."""
    with urlopen(f"{url}/metrics") as page:
        text = page.read().decode()
    return float(re.findall(rf"^{name} (\S+)$", text, re.MULTILINE)[0])


async def soak(
    url: str, process: psutil.Process, count: int, clients: int
) -> tuple[Seen, list[float]]:
    """Sends requests; returns what was seen, and the resident memory in MB after each part."""
    seen, memory = Seen(), []
    with load_tiny() as encoder:
        made = mixed_requests(encoder, DISTINCT, seed=0)
    for part in range(max(1, count // DISTINCT)):
        await run_clients(url, iter(made), clients, seen)
        memory.append(process.memory_info().rss / 1e6)
        print(f"{(part + 1) * DISTINCT:>8,} requests, {memory[-1]:.0f} MB", flush=True)
    return seen, memory


def settled(url: str) -> bool:
    """Returns whether nothing is left in the server, at the latest after 10 s."""
    end = time.monotonic() + 10
    while figure(url, "lame_queue_items") and time.monotonic() < end:
        time.sleep(0.1)
    return not figure(url, "lame_queue_items")


def main() -> int:
    """Runs the soak; returns 1 if an answer was wrong or lost, work was left, or memory grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    command = [sys.executable, "-m", "lame_runtime", "serve", str(TINY), "--port", "0"]
    server = subprocess.Popen([*command, "--threads", "1"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    url = server.stdout.readline().split()[0]
    start = time.perf_counter()
    try:
        process = psutil.Process(server.pid)
        seen, memory = asyncio.run(soak(url, process, options.requests, options.clients))
        seconds = time.perf_counter() - start
        if not settled(url):
            seen.faults.append("items are left in the server")
        # what the allocator takes at first is no growth
        early = memory[len(memory) // 5]
        growth = memory[-1] / early - 1
        if growth > MOST_GROWTH:
            seen.faults.append(f"memory grew by {growth:.1%} after the first fifth")
        report = {
            "requests": len(memory) * DISTINCT,
            "per_second": len(memory) * DISTINCT / seconds,
            "outcomes": dict(seen.outcomes),
            "dropped_items": figure(url, "lame_dropped_items_total"),
            "memory_mb": memory,
            "growth": growth,
            "faults": len(seen.faults),
        }
    finally:
        server.terminate()
        code = server.wait(60)
    if code:
        seen.faults.append(f"the server ended with {code}")
    print(json.dumps({**report, "memory_mb": memory[-1]}, indent=1))
    for fault in seen.faults[:20]:
        print("fault:", fault)
    if options.json is not None:
        options.json.parent.mkdir(exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if seen.faults else 0


if __name__ == "__main__":
    sys.exit(main())

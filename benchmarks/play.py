"""How fast the page's server answers: 20 classes of 5 examples, the bundled drawing model, 1 and 5 pages open.

Measured where the page is, over loopback, so that it is what the page waits for. Each page asks ten times a second, as
strokes come, and then adds ten examples, one a second. The processor time of the server per request is free of what
else the computer does.

    OMP_NUM_THREADS=1 python benchmarks/play.py --records results/play.jsonl
"""

import argparse
import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

TOKEN = "benchmark0123456789"
ASKED, ADDED = 100, 10
STROKE_EVERY_S, EXAMPLE_EVERY_S = 0.1, 1.0


class Page:
    def __init__(self, port: int):
        self.port, self.session = port, ""
        self.session = self.post("", b"{}")["session"]
        self.state = self.post("/do", json.dumps({"do": "gallery", "name": "twenty"}).encode())["state"]

    def post(self, path: str, body: bytes) -> dict:
        return self._ask("POST", path, body)

    def get(self, path: str) -> dict:
        return self._ask("GET", path, None)

    def _ask(self, method: str, path: str, body: bytes | None) -> dict:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        with contextlib.closing(connection):
            connection.request(method, f"/{TOKEN}/s{'/' if self.session else ''}{self.session}{path}", body)
            response = connection.getresponse()
            found = json.loads(response.read())
        if response.status != 200:
            raise SystemExit(f"{path}: {found}")
        return found


def drawing(random: np.random.Generator) -> bytes:
    """A random walk as black strokes on white, as large as the page sends them."""
    canvas = np.full((168, 168), 255, np.uint8)
    at = random.uniform(40, 128, 2)
    for _ in range(60):
        at = np.clip(at + random.normal(0, 8, 2), 4, 164)
        y, x = at.astype(int)
        canvas[y - 4 : y + 4, x - 4 : x + 4] = 0
    file = BytesIO()
    Image.fromarray(canvas).save(file, "PNG")
    return file.getvalue()


def timed(work) -> float:
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)


def strokes(page: Page, seed: int, found: list[float]) -> None:
    random = np.random.default_rng(seed)
    for _ in range(ASKED):
        image = drawing(random)
        took = timed(lambda image=image: page.post("/query", image))
        found.append(took)
        time.sleep(max(0.0, STROKE_EVERY_S - took / 1000))


def additions(page: Page, seed: int, found: list[float]) -> None:
    """Examples added to ten classes, which have five each before; pages begin at times of their own."""
    random = np.random.default_rng(seed)
    time.sleep(EXAMPLE_EVERY_S * random.random())
    for k in range(ADDED):
        board, image = page.state["classes"][k]["id"], drawing(random)
        took = timed(lambda board=board, image=image: page.post(f"/examples/{board}", image))
        found.append(took)
        time.sleep(max(0.0, EXAMPLE_EVERY_S - took / 1000))


def all_pages(work, pages: list[Page]) -> np.ndarray:
    found: list[list[float]] = [[] for _ in pages]
    threads = [threading.Thread(target=work, args=(page, k, found[k])) for k, page in enumerate(pages)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return np.concatenate(found)


def processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(port: int, process: int, count: int) -> list[dict]:
    pages = [Page(port) for _ in range(count)]
    rows = []
    for name, work in (("a stroke", strokes), ("an added example", additions)):
        before = processor_seconds(process)
        found = all_pages(work, pages)
        used = 1000 * (processor_seconds(process) - before) / len(found)
        p50, p95 = np.percentile(found, [50, 95])
        rows.append(
            {"what": name, "pages": count, "requests": len(found), "p50_ms": p50, "p95_ms": p95, "cpu_ms": used}
        )
    return rows


def updates_a_second(port: int, process: int, seconds: float = 10.0) -> tuple[float, float]:
    """Of both models together, and the server's processor time of each."""
    page = Page(port)
    while not page.get("/watch?generation=-1&since=-1")["records"]:
        pass
    page.post("/watch", b'{"do": "speed", "speed": 60}')
    page.post("/watch", b'{"do": "play"}')
    time.sleep(2)
    first, started = page.get("/watch?generation=-1&since=-1")["records"][-1]["update"], time.perf_counter()
    before = processor_seconds(process)
    time.sleep(seconds)
    last = page.get("/watch?generation=-1&since=-1")["records"][-1]["update"]
    rate = (last - first) / (time.perf_counter() - started)
    used = 1000 * (processor_seconds(process) - before) / max(1, last - first)
    page.post("/watch", b'{"do": "pause"}')
    return rate, used


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, help="append the rows to this file")
    args = parser.parse_args()
    command = [sys.executable, "-m", "metacontrast", "play", "--no-browser", "--token", TOKEN]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().split(":")[2].split("/")[0])
            first = timed(lambda: Page(port)) / 1000
            up = time.perf_counter() - started - first
            rows = [row for count in (1, 5) for row in measure(port, server.pid, count)]
            rate, used = updates_a_second(port, server.pid)
        finally:
            server.terminate()
    load = os.getloadavg()[0]
    print(f"started in {up:.2f} s, 20 classes taught {first:.2f} s later; processors {os.cpu_count()}, load {load:.1f}")
    print(f"{'what':<18}{'pages':>6}{'p50 ms':>9}{'p95 ms':>9}{'CPU ms':>9}")
    for row in rows:
        print(f"{row['what']:<18}{row['pages']:>6}{row['p50_ms']:>9.1f}{row['p95_ms']:>9.1f}{row['cpu_ms']:>9.1f}")
    print(f"both models of `Watch it learn`: {rate:.1f} updates a second, {used:.0f} ms of processor time each")
    if args.records:
        facts = {
            "start_s": up,
            "taught_s": first,
            "updates_per_s": rate,
            "update_cpu_ms": used,
            "load": load,
            "cpus": os.cpu_count(),
        }
        with args.records.open("a") as file:
            file.write(json.dumps(facts | {"rows": rows}) + "\n")


if __name__ == "__main__":
    main()

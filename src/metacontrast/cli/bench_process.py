"""The process in which `bench` times this library or the floor: `python -m metacontrast.cli.bench_process ours`."""

import sys

from metacontrast.bench.ours import prepare, start_floor
from metacontrast.bench.peers.process import serve, timed
from metacontrast.cli.allocator import keep_freed_memory

if __name__ == "__main__":
    keep_freed_memory()
    serve({"ours": timed(prepare), "floor": start_floor}[sys.argv[1]])

"""A service with the fixture model under load: finds its saturation, then half of it and twice of it.

    python run.py BINARIES OUT [--minutes N] [--only detect,bulk,generate,library]

BINARIES is the folder of `dandyroll`, `dandyroll-load` and `dandyroll-library`; OUT is where result files go.
Everything happens on 127.0.0.1 with a store and a token that are thrown away. The generator has the machine's last core
and the service the others, where the system lets a program choose: a generator that waits for a core would measure
itself. Python's standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
# None of its own for a machine of one core.
SERVICE, GENERATOR = (CORES[:-1], CORES[-1:]) if len(CORES) > 1 else (CORES, CORES)
SINGLES = ["detect:100=3", "detect:300=6", "detect:1000=1"]
BULK = ["batch:16x300=1", "stream:16x300=1"]


def on(cores: list[int]) -> dict:
    """Arguments of `subprocess` for a program on these cores."""
    return {"preexec_fn": lambda: os.sched_setaffinity(0, cores)} if cores else {}


class Service:
    """`dandyroll serve` on a free port with an empty store."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self.log = open(folder / "log", "w+")
        self.process = subprocess.Popen(
            [binary, "serve", "--listen", "127.0.0.1:0", "--model", ROOT / "fixtures" / "model", "--data-dir", folder / "data",
             "--log-filter", "warn"],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            **on(SERVICE),
        )
        self.url = self.token = None
        while not (self.url and self.token):
            line = self.process.stdout.readline()
            if not line:
                self.log.seek(0)
                raise SystemExit(f"the service ended at its start:\n{self.log.read()}")
            if found := re.search(r"http://[0-9.:]+", line):
                self.url = self.url or found[0]
            if found := re.search(r"wmk_[a-z2-7]{16}_[a-z2-7]{52}", line):
                self.token = found[0]
        for _ in range(200):
            try:
                with urllib.request.urlopen(f"{self.url}/readyz"):
                    return
            except urllib.error.URLError:
                time.sleep(0.1)
        raise SystemExit("the service was not ready within 20 s")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(timeout=60) != 0:
            raise SystemExit(f"the service ended with {self.process.returncode}")


def spread(values: list[float]) -> dict:
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return {"runs": len(values), "least": min(values), "lower": lower, "median": median, "upper": upper, "most": max(values)}


def processor_seconds(process: int) -> float | None:
    """User and system time of a process so far; None where there is no /proc."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def against_library(binaries: Path, load, service: int, out: Path, rounds: int) -> None:
    """Texts of 300 tokens a second over HTTP and in the library on the same cores, in turns; and for each second of
    processor time that service and library had."""
    # (part, texts of a request, connections): as many connections as keep a core busy. A text alone waits for two commits,
    # and so does each request, so that the more must be under way the smaller they are, or the disk is measured.
    ways = {"single": ("detect:300", 1, 64), "batch of 64": ("batch:64x300", 64, 8), "stream of 64": ("stream:64x300", 64, 16),
            "batch of 1024": ("batch:1024x300", 1024, 4), "stream of 1024": ("stream:1024x300", 1024, 4)}
    rates = {name: [] for name in ways}
    on_core = {name: [] for name in ways}
    beside = {name: [] for name in ways}
    beside_on_core = {name: [] for name in ways}
    origin = None
    for _ in range(rounds):
        for name, (part, size, connections) in ways.items():
            # Right before, in as many different texts as are sent: those that `dandyroll-load` cuts.
            library = [binaries / "dandyroll-library", "texts", "--texts", str(max(64, size))]
            said = json.loads(subprocess.run(library, cwd=ROOT, capture_output=True, check=True, **on(SERVICE)).stdout)
            beside[name].append(said["texts_per_second"])
            beside_on_core[name].append(said["texts_per_second_on_core"])
            before = processor_seconds(service)
            result = load("closed", [part], out.with_suffix(".round.json"), "--seconds", "4", "--connections", str(connections))
            after = processor_seconds(service)
            origin = origin or {k: result[k] for k in ("commit", "modified", "time", "machine", "service_cores", "generator_apart")}
            summary = result["phases"][0]["all"]
            if summary["faults"]:
                raise SystemExit(f"{name}: {summary['faults']}")
            rates[name].append(summary["units_per_second"])
            on_core[name].append(summary["accepted"] * size / (after - before) if before is not None else None)
    out.with_suffix(".round.json").unlink()
    ratios = {name: spread([o / l for o, l in zip(rates[name], beside[name])]) for name in ways}
    known = all(None not in values for values in [*on_core.values(), *beside_on_core.values()])
    on_cores = {name: spread([o / l for o, l in zip(on_core[name], beside_on_core[name])]) for name in ways} if known else {}
    report = {"command": "x.py load --only library", **origin, "rounds": rounds,
              "texts_per_second": {name: spread(values) for name, values in rates.items()},
              "library_texts_per_second": {name: spread(values) for name, values in beside.items()}, "ratios": ratios,
              "ratios_on_core": on_cores}
    out.write_text(json.dumps(report, indent=1) + "\n")
    for name, ratio in ratios.items():
        core = f", {on_cores[name]['median']:.2f} for each second on a core" if name in on_cores else ""
        print(f"{name}: {ratio['median']:.2f} of the library ({ratio['lower']:.2f} – {ratio['upper']:.2f}){core}", flush=True)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("binaries", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("--minutes", type=float, default=1.0, help="at half the saturation; half as long at twice of it")
    arguments.add_argument("--only", default="detect,bulk,generate,library")
    given = arguments.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    binaries = given.binaries.resolve()
    with tempfile.TemporaryDirectory() as folder:
        service = Service(binaries / "dandyroll", Path(folder))

        def load(what: str, parts: list[str], out: Path, *more: str) -> dict:
            command = [binaries / "dandyroll-load", what, "--url", service.url, "--pid", str(service.process.pid), "--out", out]
            for part in parts:
                command += ["--part", part]
            # The token goes by environment: arguments are for all to see.
            environment = os.environ | {"DANDYROLL_TOKEN": service.token}
            subprocess.run([*map(str, command), *more], cwd=ROOT, env=environment, check=True, **on(GENERATOR))
            result = json.loads(out.read_text()) | {"service_cores": len(SERVICE), "generator_apart": SERVICE != GENERATOR}
            out.write_text(json.dumps(result, indent=1) + "\n")
            return result

        lengths = ["--minutes", str(given.minutes), "--overload-minutes", str(given.minutes / 2)]
        try:
            for name in given.only.split(","):
                out = given.out / f"{name}.json"
                if name == "detect":
                    load("saturate", SINGLES, out, "--connections", "8,32,128", *lengths)
                elif name == "bulk":
                    load("saturate", BULK, out, *lengths)
                elif name == "generate":
                    load("saturate", ["generate:48"], out, "--connections", "1,8,16", *lengths)
                elif name == "library":
                    against_library(binaries, load, service.process.pid, out, 5)
                else:
                    raise SystemExit(f"there is no load named {name}")
        finally:
            service.stop()


if __name__ == "__main__":
    main()

"""Starts the service and lets real clients at it: the `openai` package, and schemathesis against openapi.json.

    python run.py BINARY MODEL_DIRECTORY [--examples N] [--report FILE]

The Python that runs it has requirements.txt installed (`x.py clients` sees to that). Everything happens on
127.0.0.1, with a store and a token that are thrown away.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent


class Service:
    """`dandyroll serve` on a free port with an empty store."""

    def __init__(self, binary: Path, model: Path, folder: Path) -> None:
        self.log = open(folder / "log", "w+")
        self.process = subprocess.Popen(
            [binary, "serve", "--listen", "127.0.0.1:0", "--model", model, "--data-dir", folder / "data"],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
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


def schemathesis(service: Service, folder: Path, examples: int) -> str:
    """All checks against the served document. The token goes by environment: arguments are for all to see."""
    configuration = folder / "schemathesis.toml"
    configuration.write_text((HERE / "schemathesis.toml").read_text())
    (folder / "hooks.py").write_text((HERE / "hooks.py").read_text())
    command = [
        *(Path(sys.executable).with_name("schemathesis"), "--config-file", configuration),
        *("run", f"{service.url}/openapi.json", "--max-examples", str(examples), "--seed", "1"),
        *("--workers", "2", "--report", "junit", "--report-dir", folder / "report"),
    ]
    environment = os.environ | {"DANDYROLL_TOKEN": service.token, "NO_COLOR": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    text = (done.stdout + done.stderr).replace(service.token, "wmk_…").replace(str(folder), "…")
    if done.returncode:
        print(text)
        raise SystemExit(f"schemathesis found something (exit code {done.returncode})")
    return text


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("binary", type=Path)
    arguments.add_argument("model", type=Path)
    arguments.add_argument("--examples", type=int, default=10, help="cases for each operation and phase")
    arguments.add_argument("--report", type=Path, help="where to write what schemathesis says")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        service = Service(given.binary.resolve(), given.model.resolve(), folder)
        try:
            environment = os.environ | {"DANDYROLL_URL": service.url, "DANDYROLL_TOKEN": service.token}
            subprocess.run([sys.executable, HERE / "openai_client.py"], env=environment, check=True)
            said = schemathesis(service, folder, given.examples)
            with urllib.request.urlopen(f"{service.url}/readyz") as answer:
                assert answer.status == 200, json.load(answer)
        finally:
            service.stop()
    said = re.sub(r"http://127\.0\.0\.1:\d+", "http://127.0.0.1", said)
    if given.report:
        given.report.write_text(f"# Produced by x.py clients --examples {given.examples}\n{said}")
    print("\n".join(said.strip().splitlines()[-12:]))


if __name__ == "__main__":
    main()

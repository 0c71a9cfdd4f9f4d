"""Instructions of the hot paths, counted by callgrind: they do not depend on how busy the machine is.

    python callgrind.py LIBRARY PROFILE [--keep]

LIBRARY is the program `dandyroll-library`, built in PROFILE: release, or dev as continuous integration has it built
already (its hot crates are optimised, too). A path is run a few times and many times; the difference over the
difference in times is what one run costs, start-up left out. The counts that are kept (callgrind.json) are of one
compiler and of the vector instructions that valgrind lets a program see (AVX2 at most): a count more than its margin above
its kept one fails; one as far below is told, so that it gets kept. `--keep` keeps what was counted: do so in the commit
that means to change it, or that moves to another compiler.
Python's standard library only.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEPT = Path(__file__).resolve().parent / "callgrind.json"
# Above the noise of start-up, and of how another build of the same source is inlined: up to 1.8 % from one folder to
# another was seen.
MARGINS = {"release": 0.05, "dev": 0.08}
# Path -> how often in the short and in the long run. Start-up differs by some 300 000 instructions from run to run (maps
# with random seeds): the long run does so much that this is below half a per cent of one path's cost.
PATHS = {"detect-ids": (10, 1010), "detect-text": (10, 1010), "bias": (2, 102), "step": (10, 110)}


def count(library: Path, path: str, times: int) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", str(library), "hot", path, "--times", str(times)]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except FileNotFoundError:
        raise SystemExit("valgrind is not installed (Debian: apt-get install valgrind)") from None
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return int(found[1])


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("library", type=Path)
    arguments.add_argument("profile", choices=["release", "dev"])
    arguments.add_argument("--keep", action="store_true", help="keep what is counted")
    given = arguments.parse_args()
    compiler = subprocess.run(["rustc", "--version"], capture_output=True, text=True, cwd=ROOT).stdout.strip()
    all_kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    kept = all_kept.get(given.profile, {"compiler": None, "instructions": {}})
    counts, failed, margin = {}, False, MARGINS[given.profile]
    for path, (few, many) in PATHS.items():
        counts[path] = round((count(given.library, path, many) - count(given.library, path, few)) / (many - few))
        before = kept["instructions"].get(path)
        change = counts[path] / before - 1 if before else None
        said = "not kept yet" if change is None else f"{change:+.2%} of what is kept"
        if change is not None and abs(change) > margin:
            failed |= change > 0
            said += ": more than the margin" if change > 0 else ": keep it (--keep)"
        print(f"{path:12} {counts[path]:>12,} instructions, {said}", flush=True)
    if given.keep:
        all_kept[given.profile] = {"compiler": compiler, "margin": margin, "instructions": counts}
        KEPT.write_text(json.dumps(all_kept, indent=1) + "\n")
        return 0
    if missing := PATHS.keys() - kept["instructions"].keys():
        print(f"not kept: {', '.join(sorted(missing))}; keep them with --keep", file=sys.stderr)
        return 1
    if failed and kept["compiler"] != compiler:
        print(f"kept with {kept['compiler']}, counted with {compiler}: judge whether the compiler did it", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

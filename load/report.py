#!/usr/bin/env python3
"""Draws what was measured: docs/performance/*.json → docs/performance.md, pictures beside the JSON.

    python3 x.py performance         draws again from the result files that are there
    python3 x.py load | peers        measure, then call this

A row without its result file says that it was not measured.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
# The same bytes for the same figures.
matplotlib.rcParams["svg.hashsalt"] = "dandyroll"
import matplotlib.pyplot as plt

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "performance"


def read(name: str) -> dict | None:
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ratio(spread: dict | None) -> str:
    return "not measured" if spread is None else f"{number(spread['median'])} ({number(spread['lower'])} – {number(spread['upper'])})"


# A longer table is folded, so that the page can be read without it.
LONGEST_OPEN = 12


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    text = "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
    if len(rows) <= LONGEST_OPEN:
        return text
    return f"<details>\n<summary>Table of {len(rows)} rows: {', '.join(head)}</summary>\n\n{text}\n\n</details>"


def claims() -> str:
    """What the page concludes, as far as it was measured."""
    found = []
    benches, generation, peers, library, detect = (read(name) for name in ("benches", "generation", "peers", "library", "detect"))
    text = "a text of 300 tokens/text in, verdict out"
    if benches and text in benches["nanoseconds"]:
        megabyte = benches["nanoseconds"]["a document of 1 MiB, one key, h = 2/normalise, tokenise, detect"][0]
        found.append(f"**Detection is fast.** A text of 300 tokens takes {time(benches['nanoseconds'][text][0])} on one core, a document of 1 MiB "
                     f"{time(megabyte)}. ([more](#each-stage-alone))")
    marked = next((pair for pair in (generation or {"pairs": []})["pairs"] if pair["what"].startswith("marked")), None)
    if marked:
        best = (marked.get("ratio_on_core") or marked["ratio"])["median"]
        found.append(f"**Marking costs little.** Beside the small fixture model, marked text is written at {best:.1%} of the speed of unmarked text. "
                     "([more](#what-the-limit-is))")
    rows = {(row["what"], row["peer"]): row for row in (peers or {"rows": []})["rows"]}
    beside = [(peer, row) for (what, peer), row in rows.items() if what.startswith("generation, marked, eight together")]
    step = next((row for (what, _), row in rows.items() if what.startswith("marking a step")), None)
    if beside and step:
        peer, row = beside[0]
        of = lambda row: (row.get("ratio_on_core") or row["ratio"])["median"]  # noqa: E731
        found.append(f"**It is faster than its peers.** Marking a step is {of(step):.0f} times as fast as in `transformers`. Eight marked texts together "
                     f"are written {of(row):.0f} times as fast as by {peer.replace(', one text at a time', ' one at a time')}. "
                     "([more](#against-floor-and-aim))")
    if detect:
        overload = next(phase for phase in detect["phases"] if phase["name"] == "twice saturation")["all"]
        found.append(f"**Overload stays orderly.** At twice what it can do, the service still judges {overload['accepted_per_second']:,.0f} texts a second, "
                     f"half of them within {overload['latency']['p50_ms']:.0f} ms. It refuses the rest, and memory stays flat. ([more](#under-load))")
    if library:
        ratios = library.get("ratios_on_core") or library["ratios"]
        single, batch = ratios["single"]["median"], ratios["batch of 1024"]["median"]
        found.append(f"**Single texts over HTTP are the weak point.** They reach {single:.1%} of the library's speed, because each is written to the audit "
                     f"on disk. Batches of 1,024 reach {batch:.0%}. ([more](#what-the-limit-is))")
    return "\n".join(f"{i}. {claim}" for i, claim in enumerate(found, 1))


def origin(report: dict) -> str:
    machine = report["machine"]
    commit = (report["commit"] or "unknown")[:12] + (" and changes" if report["modified"] else "")
    busy = machine.get("load_average")
    others = "" if busy is None else f", load average {busy:.1f} before it began"
    return f"`{report['command']}`, commit {commit}, {machine['processor']}, {machine['cores']} cores{others}"


def bound(value: float | None, sign: str = "≥ ", times: str = "") -> str:
    return "–" if value is None else f"{sign}{value:,g}{times}"


def verdict(median: float, floor: float | None, aim: float | None) -> str:
    if aim is not None and median >= aim:
        return "aim"
    if floor is not None and median < floor:
        return "**below the floor**"
    return "floor" if floor is not None else "–"


def rows_of_design() -> tuple[list[list[str]], list[str]]:
    rows, sources = [], []
    peers, generation, library = read("peers"), read("generation"), read("library")

    def add(what: str, floor: float | None, aim: float | None, found: dict | None, command: str) -> None:
        found = found or {}
        best = found.get("ratio_on_core") or found.get("ratio")
        reached = "–" if best is None else verdict(best["median"], floor, aim)
        on_core = ratio(found["ratio_on_core"]) if found.get("ratio_on_core") else "–"
        rows.append([what, bound(floor), bound(aim), on_core, ratio(found.get("ratio")), reached, f"`{command}`"])

    for what, report in (("", generation), (", every neighbour known", read("generation-known"))):
        marked = next((p for p in (report or {"pairs": []})["pairs"] if p["what"].startswith("marked")), None)
        add(f"generation, marked : unmarked tokens/s{what}", 0.98, 0.995, marked, "x.py speed")
    eight = next((p for p in (generation or {"pairs": []})["pairs"] if p["what"].startswith("eight")), None)
    add("generation, eight together : one after another", 3, None, eight, "x.py speed")
    if peers:
        for row in peers["rows"]:
            add(f"{row['what']} : {row['peer']}", row["floor"], row["aim"], row, "x.py peers")
    else:
        rows.append(["ours : peers", "–", "–", "–", "not measured", "–", "`x.py peers`"])
    for name, floor, aim in (("single", 0.3, 0.6), *((f"{way} of {size}", 0.3, 0.8) for size in (64, 1024) for way in ("batch", "stream"))):
        spread = {"ratio": library["ratios"].get(name), "ratio_on_core": library.get("ratios_on_core", {}).get(name)} if library else None
        add(f"HTTP detection of 300-token texts, {name} : the library on the same cores", floor, aim, spread, "x.py load --only library")
    for name, report in (("generation", generation), ("generation, known", read("generation-known")), ("peers", peers), ("HTTP beside the library", library)):
        if report:
            sources.append(f"- {name}: {origin(report)}")
    return rows, sources


def of_a_step(name: str, texts: str) -> str:
    """Where marked generation loses what it loses."""
    pairs = (read(name) or {"pairs": []})["pairs"]
    marked = next((pair for pair in pairs if pair["what"].startswith("marked")), {})
    above, below = marked.get("besides_the_model") or (None, None)
    if not (above and below and marked.get("ratio_in_model")):
        return ""
    token = 1e6 / marked["above"]["median"]
    return (f"A token of a marked text takes {token:,.0f} µs by the clock, {texts}. Besides the model it takes {above['median']:.0f} µs on the core "
            f"({above['lower']:.0f} – {above['upper']:.0f}), one of an unmarked text {below['median']:.0f} µs ({below['lower']:.0f} – "
            f"{below['upper']:.0f}); in the model alone the ratio is {ratio(marked['ratio_in_model'])}, which should be 1 but for what marking "
            "does to the caches. ")


def absolute() -> str:
    peers = read("peers")
    if not peers:
        return ""
    found = []
    for row in peers["rows"]:
        if row["what"].startswith("marking a step"):
            found.append(f"{row['what'].removeprefix('marking a step, ')}: {row['our_seconds_on_core']['median'] * 1e6:.0f} µs "
                         f"({row['our_seconds_on_core']['lower'] * 1e6:.0f} – {row['our_seconds_on_core']['upper'] * 1e6:.0f}), "
                         f"the peer {row['peer_seconds_on_core']['median'] * 1e6:,.0f} µs")
    alone = [f"{time(median)} at {name.removeprefix('a step, ').split('/')[0]}"
             for name, (median, _, _) in (read("benches") or {"nanoseconds": {}})["nanoseconds"].items()
             if name.endswith("/bias of a whole step, and a copy of the logits")]
    bench = f" By `x.py bench`, later: {', '.join(alone)}." if alone else ""
    return ("The first row of the design is in microseconds, not a ratio: bias of a whole step and a copy of its logits, floor 60 µs at "
            "V = 50 257 and 0.2 ms at 151 936. Beside the peers: " + "; ".join(found) + "." + bench + "\n")


def picture(name: str, report: dict) -> None:
    phases = [phase for phase in report["phases"] if phase["open"]]
    figure, axes = plt.subplots(3, len(phases), figsize=(4.6 * len(phases), 6.4), sharex="col", squeeze=False)
    for column, phase in enumerate(phases):
        seconds = phase["seconds"]
        time = [second["second"] for second in seconds]
        top, middle, bottom = axes[0][column], axes[1][column], axes[2][column]
        for key, label in (("p50_ms", "p50"), ("p99_ms", "p99")):
            top.plot(time, [second[key] for second in seconds], linewidth=1, label=label)
        top.set(yscale="log", title=f"{phase['name']}: {phase['open']['rate']:.0f}/s")
        for key, label in (("accepted", "accepted"), ("refused", "429"), ("faults", "faults")):
            middle.plot(time, [second[key] for second in seconds], linewidth=1, label=label)
        bottom.plot([m["second"] for m in phase["memory"]], [m["resident_kib"] / 1024 for m in phase["memory"]], linewidth=1)
        bottom.set(xlabel="s", ylim=(0, None))
        if column == 0:
            top.set_ylabel("latency of the accepted, ms")
            middle.set_ylabel("requests of a second")
            bottom.set_ylabel("resident memory, MiB")
            top.legend(fontsize=7)
            middle.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def memory(phase: dict) -> str:
    values = [m["resident_kib"] / 1024 for m in phase["memory"]]
    if len(values) < 6:
        return "–"
    third = len(values) // 3
    first, last = sorted(values[:third])[third // 2], sorted(values[-third:])[third // 2]
    return f"{first:.0f} → {last:.0f}"


def loads() -> str:
    parts = []
    titles = {"detect": "Single texts", "bulk": "Batches and streams of 16 texts", "generate": "Generation streams of 48 tokens"}
    for name, title in titles.items():
        report = read(name)
        if not report:
            continue
        picture(name, report)
        rows = []
        for phase in report["phases"]:
            all_, open_ = phase["all"], phase["open"]
            latency = all_["latency"]
            rows.append([
                phase["name"], number(open_["rate"] if open_ else None), number(all_["accepted_per_second"]),
                *(number(latency[key]) if open_ else "–" for key in ("p50_ms", "p99_ms", "p999_ms")),
                f"{all_['refused']}", number(all_["refusal"]["p99_ms"]),
                ", ".join(f"{n} × {k}" for k, n in all_["faults"].items()) or "none", f"{phase['unsent']}", memory(phase),
            ])
        head = ["phase", "offered /s", "accepted /s", "p50 ms", "p99 ms", "p99.9 ms", "429", "p99 of 429, ms", "other faults", "unsent", "memory, MiB"]
        parts.append(f"### {title}\n\n{table(head, rows)}\n")
        if name == "generate":
            tokens = [[p["name"], number(p["all"]["units_per_second"]), number(p["all"]["first_token"]["p50_ms"]),
                       number(p["all"]["first_token"]["p99_ms"]), number(p["all"]["token_gap"]["p50_ms"]), number(p["all"]["token_gap"]["p99_ms"])]
                      for p in report["phases"]]
            parts.append(table(["phase", "tokens /s", "first token p50 ms", "p99 ms", "next token p50 ms", "p99 ms"], tokens) + "\n")
        apart = f"; the service had {report['service_cores']} of them, and the generator another" if report.get("generator_apart") else ""
        parts.append(f"![{title}](performance/{name}.svg)\n\n{origin(report)}{apart}\n")
    return "\n".join(parts) if parts else "Not measured yet: `python3 x.py load`.\n"


def instructions() -> str:
    path = ROOT / "load" / "callgrind.json"
    if not path.exists():
        return ""
    profiles = json.loads(path.read_text(encoding="utf-8"))
    kept = profiles["release"]
    names = {"detect-ids": "detection in the ids of a text of 300 tokens", "detect-text": "the same from the text",
             "bias": "bias of a step at V = 50 257, and a copy of its logits",
             "step": "a whole marked step without the model at the fixture model's vocabulary"}
    rows = [[names.get(path, path), f"{count:,}"] for path, count in kept["instructions"].items()]
    dev = profiles.get("dev")
    guard = f"`.ci/run` does so with what the tests were built with, whose counts are kept beside these ({dev['margin']:.0%}). " if dev else ""
    return (f"## Instructions\n\n`python3 x.py callgrind` counts them and fails at more than {kept['margin']:.0%} above what is kept in "
            f"`load/callgrind.json` ({kept['compiler']}). {guard}They do not depend on how busy a machine is. Valgrind shows programs AVX2 at most, so "
            f"the AVX-512 forms are not what is counted.\n\n{table(['path', 'instructions of one run'], rows)}\n")


def time(nanoseconds: float) -> str:
    for unit, size in (("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds:.3g} ns"


def peaks(report: dict) -> str:
    rows = [[name, "–" if kib is None else f"{kib / 1024:.0f} MiB"] for name, kib in report.get("peak_kib", {}).items()]
    return f"\nThe most memory that `dandyroll-library hot` had; what is done is done twenty times:\n\n{table(['what', 'peak'], rows)}\n" if rows else ""


def benches() -> str:
    report = read("benches")
    if not report:
        return "Not measured yet.\n"
    rows = [[name, time(median), f"{time(lower)} – {time(upper)}"] for name, (median, lower, upper) in report["nanoseconds"].items()]
    busy = f", load average {report['load_average_after']:.1f} after it" if report["load_average_after"] is not None else ""
    return (f"Criterion's medians with their 95 % intervals, `{report['command']}`, commit {report['commit'][:12]}{busy}.\n\n"
            + table(["stage", "median", "interval"], rows) + "\n" + peaks(report))


def flames() -> str:
    pictures = {"detect-text": "Detection in a text of 300 tokens", "step": "A marked step without the model"}
    found = [f"![{title}](performance/{name}.svg)\n" for name, title in pictures.items() if (FOLDER / f"{name}.svg").exists()]
    return "\n".join(found) if found else "Not drawn yet.\n"


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows, sources = rows_of_design()
    text = f"""# Performance

{claims()}

![Single texts under load: latency, answers and memory, second by second](performance/detect.svg)

Written by `python3 x.py performance` from the result files in [performance/](performance/), which the commands below make. Do not edit.

Ratios are taken within one run, one side right after the other, in turns: median and, in brackets, the middle half of the rounds. "On the core" counts only the time that a thread had a core, and decides what is reached where it is known; "by the clock" has in it what other programs took. Absolute figures are of the machine that is named, as busy as its load average says: compare within a run.

## Against floor and aim

{table(["what", "floor", "aim", "on the core", "by the clock", "reached", "command"], rows)}

{absolute()}
{chr(10).join(sources)}


## Under load

Arrivals are Poisson at a fixed mean, whatever the answers do. Latency counts from the intended arrival to the answer's end, so a stall is seen by all who came during it. Saturation is the best rate of the closed loops; half of it should be calm, at twice of it the excess should get 429 and the rest keep its latency. What is over the generator's own bound of requests under way is counted as unsent.

{loads()}
{instructions()}
## Each stage alone

{benches()}
## Where the time goes

`python3 x.py flames` (perf, by processor time; a wider box is more time):

{flames()}
## What the limit is

The fixture model is small (six thousand tokens, a few million parameters; a step of it takes less than four milliseconds), so that a step's own work is visible beside it: beside a model that is ten times slower, what marking costs is a tenth. {of_a_step("generation", "new texts after 800 others")}{of_a_step("generation-known", "texts that were written before")}What marking adds is the words of the whole vocabulary, the entropy that a gate would read, the gathering of likely tokens and what is known of them as neighbours; answers about new pairs come from the merges alone (`vocab/src/pairs.rs`), where each was a text that the tokenizer reads before (111 µs more than an unmarked token, at commit dc0ac9a). The next step is to pass over the logits once for the largest, the entropy and the likely tokens together.

A single text over HTTP is two durable rows of the audit and one request: of the service's processor time (samples by perf, 30 November) detection had a tenth, SQLite's thread two fifths and the HTTP workers three tenths; a floor of 0.3 would leave some 55 µs for all of it. The two commits of a request cost about as much as detection in 64 texts does, which is why a batch or stream of 64 lies where it does and one of 1 024 above it; what is left there is JSON, the copies that go with it, and caches that detection shares with them. Text-in detection beside the bare encoder is bounded by the keyed words of the distinct pairs and by normalising, which the encoder alone does not do.
"""
    (ROOT / "docs" / "performance.md").write_text(text.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

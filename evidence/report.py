#!/usr/bin/env python3
"""Draws what the experiments measured: docs/evidence/*.json → tables in docs/evidence.md, pictures beside it.

    python3 x.py evidence            measures, then calls this
    python3 evidence/report.py       draws again from the JSON that is there

The share of generated texts that parse as Python is computed here, with `ast`, from the texts that the experiment
`sweet` leaves in target/evidence.
"""

from __future__ import annotations

import json

from drawing import FOLDER, ROOT, plt, save, sci, table
from parsing import parsed_share
from robustness import modes_section, retoken_section, robust_section, threshold_section, widths_section

TEXTS = ROOT / "target" / "evidence" / "sweet-texts.jsonl"


def null_section() -> str:
    report = json.loads((FOLDER / "null.json").read_text(encoding="utf-8"))
    rows, shared = [], []
    figure, axes = plt.subplots(figsize=(7, 4.6))
    for result in report["results"]:
        name = f"{result['corpus']}, {result['profile']}"
        for rate in result["rates"]:
            rows.append(
                [
                    result["corpus"], result["profile"], f"{rate['alpha']:.0e}",
                    f"{rate['positives']} / {result['pairs']}", sci(rate["rate"]),
                    f"{sci(rate['low'])} – {sci(rate['high'])}", sci(rate["attained"]),
                    "yes" if rate["within"] else "**no**",
                ]
            )
        shared += [
            [result["corpus"], result["profile"], f"{s['alpha']:.0e}", sci(s["mean"]), sci(s["worst_key"])]
            for s in result["shared_keys"][1:3]
        ]
        # Share of pairs with -log10 p above each decade's tenth.
        beyond, left = [], result["pairs"]
        for count in result["histogram"]:
            beyond.append(left / result["pairs"])
            left -= count
        points = [(10 ** (-i / 10), share) for i, share in enumerate(beyond) if share > 0]
        axes.plot([p for p, _ in points], [share for _, share in points], label=name, linewidth=1.2)
    axes.plot([1, 1e-6], [1, 1e-6], color="black", linestyle="--", linewidth=0.8, label="nominal")
    axes.set(xscale="log", yscale="log", xlabel="p or less", ylabel="share of (key, text) pairs",
             xlim=(1, 1e-6), ylim=(1e-6, 1.2), title="Human text under keys that had no part in it")
    axes.legend(fontsize=8)
    save(figure, "null")
    header = ["corpus", "profile", "α", "p ≤ α", "rate", f"{report['confidence']:.0%} interval", "exact", "holds"]
    total = sum(result["pairs"] for result in report["results"])
    return "\n\n".join(
        [
            f"**Null hypothesis:** the text was made without the key. Every (key, text) pair has a key of its own: "
            f"{total:,} pairs in all, seed {report['seed']}, texts of at most {report['tokens_at_most']} tokens, counting "
            "model-free. *exact* is what the discrete test can attain on these very texts (the mean over pairs of "
            "P[p ≤ α]); *holds* says that the interval (Clopper–Pearson) does not lie above α.",
            table(header, rows),
            "![Share of pairs by p](evidence/null.svg)",
            "Per key: the same keys for all texts of a corpus. The mean is bounded by α; a single key on texts that "
            "share phrases may do worse, which is why keys are to be calibrated one by one.",
            table(["corpus", "profile", "α", "mean over keys", "worst key"], shared),
            f"Command: `{report['command']}`",
        ]
    )


def spans_section() -> str:
    report = json.loads((FOLDER / "spans.json").read_text(encoding="utf-8"))
    rows = [
        [null["corpus"], rate["what"], f"{rate['alpha']:.0e}", sci(rate["bound"]), f"{rate['positives']} / {null['pairs']}",
         f"{sci(rate['low'])} – {sci(rate['high'])}",
         "yes" if rate["holds"] else ("no (not meant to)" if rate["what"] == "uncorrected" else "**no**")]
        for null in report["null"] for rate in null["rates"]
    ]
    power = [
        [f"{p['alpha']:.0e}", f"{p['found']} / {p['texts']} = {p['rate']:.1%}", f"{p['low']:.1%} – {p['high']:.1%}",
         f"{p['whole_text']:.1%}", f"{p['known_place']:.1%}", f"{p['sure']:.1%}",
         " / ".join(str(error) for error in p["border_error"]), str(p["several"]), str(p["elsewhere"])]
        for p in report["power"]
    ]
    figure, axes = plt.subplots(figsize=(7, 3.8))
    for p in report["power"]:
        errors = p["border_errors"]
        axes.step(errors, [(i + 1) / len(errors) for i in range(len(errors))], where="post", label=f"α {p['alpha']:.0e}")
    axes.axvline(40, color="black", linestyle="--", linewidth=0.8)
    axes.set(xlabel="error of a border, tokens", ylabel="share of borders", ylim=(0, 1.02),
             title="Borders of passages found")
    axes.legend(fontsize=8)
    save(figure, "spans")
    documents = ", ".join(f"{null['documents']} of {null['corpus']}" for null in report["null"])
    return "\n\n".join(
        [
            f"**Null hypothesis:** the document was made without the key. Documents of {report['document_tokens']} tokens "
            f"({documents}), a key of its own for each pair, seed {report['seed']}. *search*: the span search has half of α; "
            "*any*: anything said about the text, whole or span; *uncorrected*: the least p of the same windows as it is. "
            f"Intervals: Clopper–Pearson, {report['confidence']:.0%}.",
            table(["corpus", "what", "α", "bound", "alarms", "interval", "holds"], rows),
            f"**Power:** {report['passages']} passages of {report['passage_tokens']} tokens (γ {report['gamma']}, δ "
            f"{report['delta']:g}, h {report['context_width']}, temperature {report['temperature']:g}; "
            f"{report['passage_draws']:.0f} draws, {report['green_rate']:.1%} ± {report['green_rate_sd']:.1%} green), each at "
            f"several random places in {report['document_tokens']} human tokens. *known place*: one test of the passage "
            "alone, what could be reached at most; *sure*: what the correction allows at least, from a window that any such "
            "passage contains; *whole text*: one test of the document with all of α. Places of one passage are not "
            "independent: the interval is for this pool of passages.",
            table(["α", "found", "interval", "whole text", "known place", "sure", "border error, tokens: 25 / 50 / 75 / 90 %",
                   "in pieces", "spans elsewhere"], power),
            "![Errors of borders](evidence/spans.svg)",
            f"Command: `{report['command']}`",
        ]
    )


def parse_shares(command: str) -> dict[tuple, tuple[float, float, float]]:
    """(τ, δ) → share of texts that parse whole, share of which nine lines in ten do, mean share of lines that do.

    Kept in sweet-parse.json, so that the page can be drawn again without the texts."""
    kept = FOLDER / "sweet-parse.json"
    if TEXTS.exists():
        by_arm: dict[tuple, list[float]] = {}
        for line in TEXTS.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            by_arm.setdefault((row["tau"], row["delta"]), []).append(parsed_share(row["prompt"], row["text"]))
        arms = [
            {"tau": tau, "delta": delta, "whole": sum(share == 1 for share in shares) / len(shares),
             "nearly": sum(share >= 0.9 for share in shares) / len(shares), "lines": sum(shares) / len(shares)}
            for (tau, delta), shares in by_arm.items()
        ]
        kept.write_text(json.dumps({"command": command, "arms": arms}, indent=1) + "\n", encoding="utf-8")
    stored = json.loads(kept.read_text(encoding="utf-8"))
    if stored["command"] != command:
        raise SystemExit("sweet-parse.json belongs to another run than sweet.json: run `python3 x.py evidence sweet`")
    return {(arm["tau"], arm["delta"]): (arm["whole"], arm["nearly"], arm["lines"]) for arm in stored["arms"]}


def sweet_section() -> str:
    report = json.loads((FOLDER / "sweet.json").read_text(encoding="utf-8"))
    shares = parse_shares(report["command"])
    arms = {(arm["tau"], arm["delta"]): arm for arm in report["arms"]}
    taus = list(dict.fromkeys(arm["tau"] for arm in report["arms"]))
    deltas = sorted({arm["delta"] for arm in report["arms"] if arm["delta"] is not None})
    gate = lambda tau: "none" if tau is None else f"{tau:g}"  # noqa: E731
    unmarked = arms[(None, None)]

    def row(tau: float | None, delta: float | None) -> list[str]:
        arm, (whole, nearly, lines) = arms[(tau, delta)], shares[(tau, delta)]
        marked = delta is not None
        return [
            gate(tau) if marked else "—",
            f"{arm['biased_share']:.1%}" if marked else "0 (unmarked)",
            f"{arm['scored']:.0f}",
            f"{arm['mean_z']:.2f} ± {arm['z_sd']:.2f}",
            f"{arm['mean_log10_p']:.1f}",
            f"{arm['detected']:.0%}",
            f"{arm['loss']:.3f} ({arm['loss'] - unmarked['loss']:+.3f})",
            f"{arm['changed']:.1f}",
            f"{arm['forced_changed']:.2f}",
            f"{whole:.0%}",
            f"{nearly:.0%}",
            f"{lines:.0%}",
        ]

    header = [
        "τ (nats)", "biased", "scored pairs", "z", "log₁₀ p", "p ≤ 1e-5", "loss", "changed", "forced changed",
        "parse", "nine lines in ten", "lines",
    ]
    shown = max(delta for delta in deltas if delta <= 3)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2))
    equal_rows = []
    target = arms[(None, 2.0)]["mean_log10_p"] if (None, 2.0) in arms else arms[(None, deltas[-1])]["mean_log10_p"]
    for tau in taus:
        curve = [arms[(tau, delta)] for delta in deltas]
        power = [arm["mean_log10_p"] for arm in curve]
        label = f"τ {gate(tau)}"
        left.plot([-p for p in power], [arm["forced_changed"] for arm in curve], marker="o", markersize=3, label=label)
        right.plot([-p for p in power], [arm["loss"] - unmarked["loss"] for arm in curve], marker="o", markersize=3,
                   label=label)
        equal_rows.append([gate(tau), *at_equal_power(deltas, curve, target, unmarked["loss"])])
    left.set(xlabel="−log₁₀ p at 200 tokens (mean)", ylabel="forced tokens changed, per 200")
    right.set(xlabel="−log₁₀ p at 200 tokens (mean)", ylabel="loss over unmarked, nats per token")
    left.legend(fontsize=8)
    save(figure, "sweet")
    return "\n\n".join(
        [
            f"{report['texts']} prompts from held-out files, {report['tokens']} tokens each, γ {report['gamma']}, "
            f"h {report['context_width']}, temperature {report['temperature']}, top-p {report['top_p']}, seed "
            f"{report['seed']}; judged by the first {report['judged_tokens']} tokens of the text after tokenising it "
            "again, gated arms with the prompt. *changed*: tokens, for every 200, that the same uniform would have "
            f"drawn otherwise without the mark; *forced*: the unmarked model gave one token {report['forced_probability']} "
            "or more. *loss*: −ln p per token under the unmarked model, and its difference to unmarked text. *parse*: "
            "texts that `ast.parse` takes from the prompt on, without their last line, which is cut; *nine lines in ten*: texts "
            "of which nine lines in ten do; *lines*: the mean share of lines in the longest beginning that does.",
            f"At δ = {shown:g}:",
            table(header, [row(None, None), *(row(tau, shown) for tau in taus)]),
            f"At equal power (the δ at which the mean log₁₀ p is {target:.1f}, that of the ungated mark at δ = 2; "
            "linear between the δ measured):",
            table(["τ (nats)", "δ", "forced tokens changed per 200", "all tokens changed per 200", "loss over unmarked"],
                  equal_rows),
            "![Forced tokens changed and loss, by power](evidence/sweet.svg)",
            f"Command: `{report['command']}`",
        ]
    )


def at_equal_power(deltas: list[float], curve: list[dict], target: float, unmarked_loss: float) -> list[str]:
    for (low, high), (a, b) in zip(zip(deltas, deltas[1:]), zip(curve, curve[1:])):
        if b["mean_log10_p"] <= target <= a["mean_log10_p"]:
            t = (a["mean_log10_p"] - target) / (a["mean_log10_p"] - b["mean_log10_p"])
            mix = lambda name: a[name] + t * (b[name] - a[name])  # noqa: E731
            return [f"{low + t * (high - low):.2f}", f"{mix('forced_changed'):.2f}", f"{mix('changed'):.1f}",
                    f"{mix('loss') - unmarked_loss:+.3f}"]
    return ["not reached", "—", "—", "—"]


def main() -> None:
    body = f"""# Evidence

Every figure here is made by one command, `python3 x.py evidence`, from the fixture model and the held-out human texts
in `fixtures/`. This page is written by that command: edit `evidence/report.py`, not this file.

## False positives on human text

{null_section()}

## Marked passages in human documents

{spans_section()}

## What gating by entropy costs and saves

{sweet_section()}

## Where a threshold comes from

{threshold_section()}

## Entropy modes, and whose entropies

{modes_section()}

## What edits leave of a mark

{robust_section()}

## Context width and seeding

{widths_section()}

## Tokenising a text again

{retoken_section()}
"""
    (ROOT / "docs" / "evidence.md").write_text(body, encoding="utf-8")
    print("docs/evidence.md and its pictures are written")


if __name__ == "__main__":
    main()

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
from opening import opening
from parsing import parsed_share
from robustness import modes_section, retoken_section, robust_section, threshold_section, widths_section

TEXTS = ROOT / "target" / "evidence" / "sweet-texts.jsonl"


LANGUAGES = {"python": "Python", "rust_readmes": "English", "rust": "Rust", "c_": "C", "prose": "English", "english": "English",
             "udhr": "387 languages"}


def language(corpus: str) -> str:
    return next((name for start, name in LANGUAGES.items() if corpus.startswith(start)), "?")


def null_section() -> str:
    report = json.loads((FOLDER / "null.json").read_text(encoding="utf-8"))

    def cells(rates: list[dict]) -> list[str]:
        found = []
        for rate in rates:
            if rate["alpha"] < 0.05:
                mark = "" if rate["within"] else " **above**"
                found.append(f"{sci(rate['rate'])} ({sci(rate['low'])} – {sci(rate['high'])}) of {sci(rate['attained'])}{mark}")
        return found

    figure, axes = plt.subplots(figsize=(7, 4.6))
    for profile, style in (("prose-v1", "-"), ("code-v1", ":")):
        for result in (r for r in report["results"] if r["profile"] == profile):
            # Share of pairs with -log10 p above each decade's tenth.
            beyond, left = [], result["pairs"]
            for count in result["histogram"]:
                beyond.append(left / result["pairs"])
                left -= count
            points = [(10 ** (-i / 10), share) for i, share in enumerate(beyond) if share > 0]
            axes.plot([p for p, _ in points], [share for _, share in points], style, linewidth=1.1,
                      label=result["corpus"] if profile == "prose-v1" else None)
        axes.set_prop_cycle(None)
    axes.plot([1, 1e-6], [1, 1e-6], color="black", linestyle="--", linewidth=0.8, label="nominal")
    axes.set(xscale="log", yscale="log", xlabel="p or less", ylabel="share of (key, text) pairs",
             xlim=(1, 1e-6), ylim=(1e-6, 1.2), title="Human text, a key of its own for each pair (dotted: code-v1)")
    axes.legend(fontsize=7)
    save(figure, "null")
    alphas = [f"{rate['alpha']:.0e}" for rate in report["results"][0]["rates"] if rate["alpha"] < 0.05]
    by_corpus = [
        [r["corpus"], language(r["corpus"]), r["profile"], f"{r['documents']:,}", f"{r['pairs']:,}", *cells(r["rates"])]
        for r in report["results"]
    ]
    by_length = [
        [f"{b['from_tokens']} – {b['to_tokens'] - 1 if b['to_tokens'] else report['tokens_at_most']}", b["profile"],
         f"{b['pairs']:,}", *cells(b["rates"])]
        for b in report["by_length"]
    ]
    total = sum(result["pairs"] for result in report["results"])
    return "\n\n".join(
        [
            f"**Null hypothesis:** the text was made without the key. Every (key, text) pair has a key of its own: "
            f"{total:,} pairs in all, seed {report['seed']}, texts of at most {report['tokens_at_most']} tokens, counting "
            "model-free at the context width of each profile. Each cell: the rate measured, its interval (Clopper–Pearson, "
            f"{report['interval_confidence']:.4%} each, so that all together hold at {report['confidence']:.0%}), and what the "
            "discrete test can attain on these very texts at most (the mean over pairs of P[p ≤ α], below α because p "
            "is discrete). A rate whose interval lies above its α would be marked **above**, and fail the command.",
            "By corpus:",
            table(["corpus", "language", "profile", "texts", "pairs", *alphas], by_corpus),
            "By length in tokens, all corpora together:",
            table(["tokens", "profile", "pairs", *alphas], by_length),
            "![Share of pairs by p](evidence/null.svg)",
            f"Command: `{report['command']}`",
        ]
    )


def background_section() -> str:
    report = json.loads((FOLDER / "background.json").read_text(encoding="utf-8"))
    names = list(dict.fromkeys(measured["corpus"] for measured in report["corpora"]))
    widths = sorted({measured["context_width"] for measured in report["corpora"]})
    sizes = sorted({entry["most"] for entry in report["lists"]})
    rows, levels = [], []
    figure, all_axes = plt.subplots(1, len(widths), figsize=(10, 4.2), sharey=True, squeeze=False)
    for width, axes in zip(widths, all_axes[0]):
        for name in names:
            measured = next(m for m in report["corpora"] if m["corpus"] == name and m["context_width"] == width)
            arms = {arm["arm"]: arm for arm in measured["arms"]}
            levels.append([name, str(width), sci(measured["level_for_twice"])])
            for arm in measured["arms"]:
                hundredth, thousandth = arm["rates"]
                rows.append([
                    name, str(width), f"{measured['documents']:,}", arm["arm"], f"{arm['kept']:.0%}",
                    "—" if arm["refused"] is None else f"{arm['refused']} of {arm['refused'] + arm['keys']}",
                    f"{hundredth['mean']:.2%}", f"{hundredth['sd']:.2%} ({hundredth['alone_sd']:.2%})",
                    f"{hundredth['worst']:.2%} ({hundredth['alone_worst']:.2%})",
                    f"{thousandth['worst']:.2%} ({thousandth['alone_worst']:.2%})",
                ])
            curve = [arms["none"], *(arms[f"list {size}"] for size in sizes)]
            axes.plot(range(len(curve)), [100 * arm["rates"][0]["worst"] for arm in curve], marker="o", markersize=3, label=name)
        axes.axhline(2, color="black", linestyle="--", linewidth=0.8)
        axes.set_xticks(range(len(sizes) + 1), ["none", *(f"{size // 1024}k" for size in sizes)])
        axes.set(xlabel="windows on the list", title=f"context width {width}", ylim=(0, None))
    all_axes[0][0].set(ylabel=f"worst key of {report['keys']}: % of texts with p ≤ 0.01")
    all_axes[0][0].legend(fontsize=7)
    save(figure, "background")
    lists = [
        [str(entry["context_width"]), f"{entry['windows']:,}", f"{entry['documents']}", f"{entry['bytes']:,}"]
        for entry in report["lists"]
    ]
    marked = [
        [str(m["context_width"]), m["arm"], f"{m['kept']:.0%}", f"{m['mean_log10_p']:.1f}",
         *(f"{hits} / {m['texts']} = {hits / m['texts']:.0%}" for hits in m["detected"])]
        for m in report["marked"]
    ]
    source = report["lists"][0]["from"]
    return "\n\n".join(
        [
            f"**Null hypothesis:** as above, but the same {report['keys']} keys judge every text of a corpus (seed "
            f"{report['seed']}, γ {report['gamma']}, texts of at most {report['tokens_at_most']} tokens, model-free), so the "
            "texts that share windows err together. Corpora of code on this machine are split by package or file: from two "
            f"fifths of the groups a background list is made ({source}, windows of at least {report['least_documents']} of them), "
            "on one fifth keys are calibrated, two fifths are reported; the held-out corpora of `fixtures/` are "
            "reported whole, and the lists' texts leave out the files they were cut from. In brackets: what texts that "
            "share nothing would give (the sampling error of so many texts; for the worst key the median).",
            table(["corpus", "h", "texts", "arm", "pairs scored", "keys refused", "mean at 1e-2", "sd over keys",
                   "worst key at 1e-2", "worst key at 1e-3"], rows),
            "*list n*: the n windows of the build part that occur in the most texts are not scored. *own*: made from the "
            "build part of the same corpus alone. *once*: a window counts in the first text of the batch that has it. *4 texts*: "
            "windows that four texts of the batch share are not scored. *refuse*: keys whose calibration lies above nominal are "
            f"replaced by others (intervals of {report['calibration_confidence']:.3%}, the rule of `dandyroll calibrate`).",
            "![Worst key by size of the list](evidence/background.svg)",
            "The lists:",
            table(["h", "windows", "texts of the rarest", "bytes"], lists),
            "What they cost: texts marked at δ 2 (those of the next section), first 150 tokens:",
            table(["h", "arm", "pairs scored", "mean log₁₀ p", "p ≤ 1e-3", "p ≤ 1e-5"], marked),
            BACKGROUND_DECISION.replace("{reached}", reached(report)),
            "The level at which no key of the hundred would have erred on more than 2 % of the texts, without any cure:",
            table(["corpus", "h", "α"], levels),
            f"Command: `{report['command']}`",
        ]
    )


def reached(report: dict) -> str:
    """What the chosen list does to the worst key, in words."""
    falls, hundredths, thousandths, alone = [], [], [], []
    for measured in report["corpora"]:
        if measured["corpus"].endswith("_heldout"):
            continue
        arms = {arm["arm"]: arm["rates"] for arm in measured["arms"]}
        before, after = arms["none"][0], arms["list 16384"][0]
        hundredths.append(after["worst"])
        thousandths.append(arms["list 16384"][1]["worst"])
        alone.append(arms["list 16384"][1]["alone_worst"])
        falls.append(f"{measured['corpus']}, h {measured['context_width']}: {before['worst']:.2%} → {after['worst']:.2%} "
                     f"({after['alone_worst']:.2%})")
    worst = max(hundredths)
    verdict = "at most twice the nominal rate everywhere" if worst <= 0.02 else f"up to {worst / 0.01:.1f} times the nominal rate"
    return (f"**What it reaches:** the worst key of a hundred at 1e-2, without and with the list (and what texts that share nothing "
            f"would give): {'; '.join(falls)}: {verdict}. At 1e-3 it is up to {max(thousandths) / 1e-3:.1f} times nominal, where "
            f"sampling alone gives {min(alone) / 1e-3:.1f} to {max(alone) / 1e-3:.1f} times. The 300 texts of the held-out corpora "
            "are too few to tell: sampling alone gives 2.3 %. The size was chosen on the table above, which shows all sizes that "
            "were tried.")


def power_section() -> str:
    report = json.loads((FOLDER / "power.json").read_text(encoding="utf-8"))
    rows = []
    show = lambda share: f"{share['rate']:.1%} ({share['low']:.1%} – {share['high']:.1%})"  # noqa: E731
    figure, all_axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True)
    for place, axes in enumerate(all_axes):
        points = [(length["tokens"], length["powers"][place]) for length in report["lengths"]]
        alpha = points[0][1]["alpha"]
        for name, label, style in (("bound", "likelihood-ratio bound", "--"), ("ids", "exact p, generated ids", "-"),
                                   ("text", "exact p, text tokenised again", "-"), ("naive", "naive z (invalid)", ":")):
            rates = [power[name]["rate"] for _, power in points]
            lows = [power[name]["rate"] - power[name]["low"] for _, power in points]
            highs = [power[name]["high"] - power[name]["rate"] for _, power in points]
            axes.errorbar([tokens for tokens, _ in points], rates, yerr=[lows, highs], fmt=style, marker="o", markersize=3,
                          capsize=2, linewidth=1.1, label=label)
        axes.set(xlabel="tokens", title=f"false-positive rate {alpha:.0e}", ylim=(0, 1.03))
    all_axes[0].set(ylabel="marked texts detected")
    all_axes[1].legend(fontsize=8)
    save(figure, "power")
    for length in report["lengths"]:
        for power in length["powers"]:
            rows.append([str(length["tokens"]), str(length["texts"]), f"{power['alpha']:.0e}", show(power["ids"]), show(power["text"]),
                         show(power["bound"]), show(power["naive"])])
    facts = [
        [str(length["tokens"]), f"{length['scored_ids']:.1f}", f"{length['scored_text']:.1f}", f"{length['green']:.1%}",
         f"{length['retokenised']} / {length['texts']}"]
        for length in report["lengths"]
    ]
    null = [
        [n["corpus"], str(n["tokens"]), f"{n['documents']}", f"{n['pairs']:,}", f"{n['alpha']:.0e}",
         f"{sci(n['naive']['rate'])} ({sci(n['naive']['low'])} – {sci(n['naive']['high'])})", f"{n['naive']['rate'] / n['alpha']:.1f}",
         f"{sci(n['exact']['rate'])} ({sci(n['exact']['low'])} – {sci(n['exact']['high'])})"]
        for n in report["naive_null"]
    ]
    return "\n\n".join(
        [
            f"{report['texts']} texts ({report['long']} of 400 tokens, the others of 150) drawn from the fixture model at temperature {report['temperature']:g} without any filter, γ "
            f"{report['gamma']}, δ {report['delta']:g}, h {report['context_width']}, no gate, a key of its own for each, seed "
            f"{report['seed']}; each from a prompt of its own, from held-out files. Each text is judged at its first 25 to 400 tokens: the ids "
            "as generated, and the text of those ids tokenised again. "
            f"Intervals: Clopper–Pearson, {report['confidence']:.0%}; prompts of one source file resemble each other.",
            table(["tokens", "texts", "α", "exact p, generated ids", "exact p, tokenised again", "likelihood-ratio bound",
                   "naive z (peers' counting)"], rows),
            "![Power by length](evidence/power.svg)",
            BOUND,
            "What the texts carry:",
            table(["tokens", "distinct pairs, ids", "distinct pairs, text", "green", "ids differ when tokenised again"], facts),
            "**Naive z** counts every position, repeats as often as they come, and compares z with the normal quantile of α. "
            "Its power above is bought with false positives: the same statistic on human texts cut to these lengths, "
            "a key of its own for each pair (the exact test on the same pairs beside it):",
            table(["corpus", "tokens", "texts", "pairs", "α", "naive z above its quantile", "times α", "exact p ≤ α"], null),
            f"Command: `{report['command']}`",
        ]
    )


BACKGROUND_DECISION = """**Chosen:** a public list of 16,384 windows, from human texts of many projects, by `dandyroll background build`
(that size is its default), named by the profile; and calibration of every key on texts of the kind that will be judged, which
catches the phrases that no public list knows (a project's own licence header, its generated code). Refusing a key costs
nothing: masters are random, the next one is drawn. A list is a choice, not the default of `prose-v1` and `code-v1`, because
it belongs to a tokenizer and costs power.

**Why the null stays exact:** the list is made without a key, so which pairs are scored is a function of the text alone, and
the green count of the others is Bin(n, γ') as before. That holds for any list, even one with windows by mistake. It must be
fixed before texts are judged (the profile names its digest): whoever chose a list after looking at verdicts would choose the
verdict. Marking goes on at listed windows.

{reached}

**Rejected:** *larger lists*: on Rust and README files the worst key falls further, to what sampling alone gives, but half of the
pairs that were left go, and log₁₀ p with them. *Lists of one language*: not better than the pooled
one at the same size, and texts are mixed. *Scoring a window once in a batch* and *dropping windows that the batch shares*:
they cure every template, known or not, and make texts independent under every key, but a verdict then depends on which
other texts came along and in which order, and marked texts of one model share windows, too; a stream has no batch. *A smaller
level* (or a p inflated for the spread between keys, which is the same thing for the worst key): the last table says which level
would be needed; every text pays for it, and the factor cannot be measured at 10⁻⁵. *A threshold of its own for each key*: it
can be measured at 10⁻², not at 10⁻⁵, where it is needed; a refused key costs nothing instead. *Caps within a document*: each
pair counts once already. *Refusal alone*: keys that a corpus of other projects accepts still stray on this one."""

BOUND = """**The bound.** At step t let p be the model's distribution, G the key's green list, x the token. The mark draws from
q(v) = p(v) e^{δ[v ∈ G]} / Z with Z = 1 + (e^δ − 1) p(G). Whoever knows the key, the prompt and the model's distribution at
every step can compute the likelihood ratio of "drawn from q under this key" to "drawn from p, whatever the key",
Λ = Π e^{δ[x ∈ G]} / Z, repeats and all; by Neyman and Pearson no test of these two detects more texts at the same
false-positive rate than the one that reads Λ against a threshold c. At rate α the threshold solves
α = P[ln Λ ≥ c under p] = E[1/Λ; ln Λ ≥ c under q], and the right side is a mean over *marked* texts, so 10⁻⁵ is
estimated from hundreds of texts (importance sampling) and not from millions. The exact p of the detector is valid for that
null, too, so its power lies below the bound but for sampling error; it knows neither prompt nor model."""


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


def schemes_section() -> str:
    """Every built-in profile without a threshold: null on human texts, power on the model's own."""
    report = json.loads((FOLDER / "schemes.json").read_text(encoding="utf-8"))
    null = [
        [
            f"`{found['profile']}`",
            f"{found['pairs']:,}",
            *(f"{share['positives']} ({found['pairs'] * share['alpha']:.0f} allowed)" for share in found["null"]),
        ]
        for found in report["profiles"]
    ]
    alphas = [f"p ≤ {share['alpha']:.0e}" for share in report["profiles"][0]["null"]]
    power = [
        [
            f"`{found['profile']}`",
            f"{one['temperature']:g} / {one['top_p']:g}",
            str(one["tokens"]),
            f"{one['median_log10_p']:.1f}",
            f"{one['detected_at_1e_5']} of {one['texts']}",
            f"{one['marked_share']:.0%}",
        ]
        for found in report["profiles"]
        for one in found["power"]
    ]
    return "\n".join(
        [
            "Human texts, each (text, key) pair under a key of its own: how many reach a level.",
            "",
            table(["profile", "pairs", *alphas], null),
            "",
            "Texts of the fixture model's own, a fresh key each, detected without the model. Marked: the share of the "
            "eligible tokens in whose choice the mark took part; under `gumbel-v1` the others follow a context that had "
            "decided a token before, or were the only ones left.",
            "",
            table(["profile", "temperature / top-p", "tokens", "median log₁₀ p", "found at 1e-5", "marked"], power),
            "",
            f"`{report['command']}`",
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

{opening()}

Every figure here is made by one command, `python3 x.py evidence`, from the fixture model and human texts: the held-out
ones in `fixtures/`, and code and README files that are on the machine (`evidence/human.py`: Python's standard library, our
dependencies' sources, C headers; their SHA-256 stand in `evidence/*.json`). The null also takes any corpora in
`target/evidence/further`; here these were US presidential addresses (`english_speeches`), functions of CPython's library
(`python_functions`) and the Universal Declaration of Human Rights in 387 languages (`udhr_languages`). This page is
written by that command: edit `evidence/report.py`, not this file.

## False positives on human text

{null_section()}

## One key, many texts: background lists and calibration

{background_section()}

## Every scheme in one table

{schemes_section()}

## Power, beside the best that any test could do

{power_section()}

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

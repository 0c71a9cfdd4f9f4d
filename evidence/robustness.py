"""The sections of the page about edits, entropy modes, context widths, thresholds and tokenising again."""

from __future__ import annotations

import json

from drawing import FOLDER, plt, save, sci, table

# Which documents a set holds, in words.
SETS = {"prose": "prose, prose-v1", "modules": "code, code-v1"}
DEFAULT = {"prose": "left-2", "modules": "left-1"}


def read(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def percent(low: float, high: float) -> str:
    return f"{100 * low:.0f}–{100 * high:.0f}"


def rate(row: dict, alpha: float) -> str:
    found = next(r for r in row["rates"] if r["alpha"] == alpha)
    return f"{100 * found['detected'] / row['texts']:.0f} % ({percent(found['low'], found['high'])})"


def share(row: dict, alpha: float) -> float:
    return next(r for r in row["rates"] if r["alpha"] == alpha)["detected"] / row["texts"]


def strength(row: dict) -> str:
    value = row["strength"]
    if value is None:
        return ""
    return f"{value:.0f}" if value > 1 else f"{100 * value:.0f} %"


# ---- edits ---------------------------------------------------------------------------------------------------

def robust_section() -> str:
    report = read("robust")
    head, arms, rows = report["head"], report["arms"], report["rows"]
    parts = [
        f"Documents: *prose*, 200 tokens that go on from the first 48 of a human text (temperature 1); *code*, "
        f"modules of up to four functions, each a human's first lines and what of 80 generated tokens parses "
        f"(temperature 0.8); top-p {head['top_p']}, seed {head['seed']}, a key for each document. The human lines in "
        "a module are part of what is judged, as they would be in use. Words and tokens that are put in are drawn "
        "from human text. *kept*: share of the unedited text's distinct pairs that are left. *p ≤ α*: share of texts "
        f"detected, no other hypotheses tried, with its {head['confidence']:.0%} interval (Clopper–Pearson); rows are "
        "about the same documents, so their intervals are not independent, and none is adjusted for the number of rows.",
    ]
    for set_name, title in SETS.items():
        arm = next(a for a in arms if a["set"] == set_name and a["arm"] == DEFAULT[set_name])
        mine = [r for r in rows if r["set"] == set_name and r["arm"] == DEFAULT[set_name]]
        gated = {(r["edit"], r["strength"]): r for r in mine if r["mode"] == "entropy-gated"}
        spans = {(r["edit"], r["strength"]): r for r in mine if r["mode"] == "with span search"}
        header = ["edit", "strength", "pairs kept", "pairs scored", "log₁₀ p", "p ≤ 1e-3", "p ≤ 1e-5"]
        if gated:
            header += ["gated: p ≤ 1e-3", "gated: p ≤ 1e-5"]
        lines = []
        for row in mine:
            if row["mode"] != "model-free" or row["edit"].startswith("diluted"):
                continue
            line = [row["edit"], strength(row), f"{row['kept']:.0%}", f"{row['scored']:.0f}",
                    f"{row['mean_log10_p']:.1f}", rate(row, 1e-3), rate(row, 1e-5)]
            if gated:
                other = gated.get((row["edit"], row["strength"]))
                line += [rate(other, 1e-3), rate(other, 1e-5)] if other else ["", ""]
            lines.append(line)
        parts += [
            f"**{title}** ({arm['documents']} documents of {arm['made']}, {arm['tokens']:.0f} tokens on average"
            + ("; the others hold fewer than two functions that parse)" if arm["documents"] < arm["made"] else ")")
            + (". Gated: with the model, without the prompt." if gated else "."),
            table(header, lines),
        ]
        diluted = [r for r in mine if r["edit"].startswith("diluted") and r["mode"] == "model-free"]
        parts += [
            "The same documents inside human text, at a random place; *spans*: anything found by the whole text's test "
            "and the search for passages, with half of α each:",
            table(
                ["share marked", "pairs scored", "whole text: p ≤ 1e-3", "p ≤ 1e-5", "spans: p ≤ 1e-3", "p ≤ 1e-5"],
                [
                    [f"{r['strength']:.0%}", f"{r['scored']:.0f}", rate(r, 1e-3), rate(r, 1e-5),
                     rate(spans[(r["edit"], r["strength"])], 1e-3), rate(spans[(r["edit"], r["strength"])], 1e-5)]
                    for r in diluted
                ],
            ),
        ]
    draw_edits(rows)
    control = report["control"]
    parts += [
        "![Detection after edits](evidence/robust.svg)",
        f"Control: every edited text of every arm under {head['wrong_keys']} keys each that had no part in it "
        "(model-free; intervals 99 %):",
        table(
            ["documents", "arm", "α", "p ≤ α", "rate", "interval"],
            [[c["set"], c["arm"], f"{c['alpha']:.0e}", f"{c['positives']} / {c['tests']}",
              sci(c["positives"] / c["tests"]), f"{sci(c['low'])} – {sci(c['high'])}"] for c in control],
        ),
        f"Command: `python3 x.py evidence robust` (`{head['command']}`)",
    ]
    return "\n\n".join(parts)


CURVES = ["tokens substituted", "words substituted", "words deleted", "words inserted", "homoglyphs", "names renamed",
          "lines deleted"]


def draw_edits(rows: list[dict]) -> None:
    figure, axes = plt.subplots(2, 2, figsize=(10, 7.4), sharey=True)
    for column, (set_name, title) in enumerate(SETS.items()):
        mine = [r for r in rows if r["set"] == set_name and r["arm"] == DEFAULT[set_name]]
        top, bottom = axes[0][column], axes[1][column]
        start = share(next(r for r in mine if r["edit"] == "none" and r["mode"] == "model-free"), 1e-5)
        for name in CURVES:
            points = [(0.0, start)] + [
                (r["strength"], share(r, 1e-5)) for r in mine if r["edit"] == name and r["mode"] == "model-free"
            ]
            if len(points) > 1:
                top.plot(*zip(*points), marker="o", markersize=3, label=name)
        top.set(xlabel="share changed", title=f"{title}: edits, p ≤ 1e-5", ylim=(-0.02, 1.02))
        top.legend(fontsize=7)
        for mode, label in [("model-free", "whole text"), ("with span search", "with span search")]:
            for alpha, line in [(1e-3, "--"), (1e-5, "-")]:
                points = [(r["strength"], share(r, alpha)) for r in mine
                          if r["edit"].startswith("diluted") and r["mode"] == mode]
                colour = "tab:blue" if mode == "model-free" else "tab:orange"
                bottom.plot(*zip(*sorted(points)), line, marker="o", markersize=3, color=colour,
                            label=f"{label}, α {alpha:.0e}")
        bottom.set(xlabel="share of the text that is marked", title=f"{title}: dilution", ylim=(-0.02, 1.02))
        bottom.legend(fontsize=7)
    for row in axes:
        row[0].set_ylabel("share of texts detected")
    save(figure, "robust")


# ---- context widths ------------------------------------------------------------------------------------------

WIDTH_EDITS = [("none", None), ("words substituted", 0.1), ("words substituted", 0.2), ("words deleted", 0.2),
               ("tokens substituted", 0.2), ("sentences shuffled", None), ("lines joined", None),
               ("names renamed", 0.5), ("names renamed", 1.0), ("black", None), ("stripped, renamed, black", None),
               ("lines deleted", 0.3), ("functions reordered", None), ("diluted to this share", 0.3)]


def widths_section() -> str:
    report = read("robust")
    arms, rows = report["arms"], report["rows"]
    parts = [
        "The built-in profiles' γ, δ and τ with other contexts, on the same prompts, keys, uniforms and edits; mean "
        "log₁₀ p model-free (the more negative, the more evidence), and texts with p ≤ 1e-5 in brackets. *loss*: −ln p "
        "per generated token under the unmarked model, and its difference to unmarked text of the same prompts ± one "
        "standard error; *distinct 4-grams*: likewise; *lines*: generated lines in the longest beginning that parses."
    ]
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2))
    for place, (set_name, title) in enumerate(SETS.items()):
        mine = [a for a in arms if a["set"] == set_name]
        marked = [a for a in mine if a["width"] is not None]
        quality = [
            [a["arm"], f"{a['biased']:.0%}" if a["width"] is not None else "0",
             f"{a['loss']:.3f}" + (f" ({a['loss_difference']:+.3f} ± {a['loss_difference_se']:.3f})"
                                   if a["width"] is not None else ""),
             f"{a['distinct_4']:.1%}" + (f" ({100 * a['distinct_4_difference']:+.1f} ± "
                                         f"{100 * a['distinct_4_difference_se']:.1f})" if a["width"] is not None else ""),
             f"{a['lines']:.0%}" if a["lines"] is not None else "—"]
            for a in mine
        ]
        table_rows = []
        for edit, at in WIDTH_EDITS:
            found = {r["arm"]: r for r in rows if r["set"] == set_name and r["edit"] == edit and r["strength"] == at
                     and r["mode"] == "model-free"}
            if found:
                name = edit if at is None else f"{edit}, {at:.0%}"
                table_rows.append([name] + [f"{found[a['arm']]['mean_log10_p']:.1f} ({share(found[a['arm']], 1e-5):.0%})"
                                            for a in marked])
        for arm in marked:
            points = [
                (0.0 if r["edit"] == "none" else r["strength"], -r["mean_log10_p"])
                for r in rows
                if r["set"] == set_name and r["arm"] == arm["arm"] and r["mode"] == "model-free"
                and r["edit"] in ("none", "words substituted")
            ]
            axes[place].plot(*zip(*points), marker="o", markersize=3, label=arm["arm"])
        axes[place].set(xlabel="share of words substituted", ylabel="mean −log₁₀ p", title=title)
        axes[place].legend(fontsize=7)
        parts += [
            f"**{title}**, {marked[0]['documents']} documents:",
            table(["arm", "biased", "loss", "distinct 4-grams", "lines"], quality),
            table(["edit", *[a["arm"] for a in marked]], table_rows),
        ]
    save(figure, "widths")
    parts += ["![Evidence by context width](evidence/widths.svg)", WIDTHS_SAY, f"Command: `python3 x.py evidence robust` (`{report['head']['command']}`)"]
    return "\n\n".join(parts)


WIDTHS_SAY = """**What it says.** *Prose*: the wider the context, the more an edit takes (a changed word changes h + 1 pairs), and
the less text repeats itself (at h 0 one list holds for ever: 13 of 100 4-grams fewer are distinct; at h 1 five). `prose-v1` keeps h 2:
up to a tenth of the words substituted it finds what h 1 finds (57 of 60 at 1e-5), repeats itself hardly more than unmarked text,
and single keys stray less on templated text than at h 1 (above). `min` 2 keeps more than `left` 2 under heavy edits (spaces doubled: 43
and 7 of 60; a fifth of the tokens deleted: 55 and 47), where it depends on one token of the context as h 1 does. It stays an option:
how far single keys stray under it was not measured, and it costs a pass over the pairs for each key. *Code*: at δ 3, h 2 finds more than h 1
in unedited modules (37 of 52 and 31 of 53 at 1e-5), because at h 1 texts repeat themselves and repeats count once; but its loss is higher, too.
At about equal loss (h 2 with δ 2.5) they find the same in unedited text, within the error, and of edited text h 1 keeps as much or more (mean
log₁₀ p after a fifth of the tokens deleted −5.0 and −3.8, a tenth of the words substituted −6.6 and −6.0, all names renamed −6.4
and −6.0, `black` −7.6 and −7.9). So `code-v1` has h 1 (SWEET's)."""


# ---- entropy modes -------------------------------------------------------------------------------------------

READERS = {"own": "own model", "int8": "int8 copy", "three-layers": "three of five layers"}
ARMS = {"d3-gated": "code-v1: δ 3, τ 0.9", "d3": "δ 3, no gate", "d2": "δ 2, no gate"}


def reading(row: dict) -> str:
    if row["reader"] is None:
        return "—"
    return f"{READERS[row['reader']]}, {'with' if row['prompt'] else 'without'} prompt"


def modes_section() -> str:
    report = read("modes")
    parts = [
        f"Code that goes on from the first lines of a function (temperature {report['temperature']}, top-p "
        f"{report['top_p']}, γ 0.25, h 1, seed {report['seed']}, a key for each text), cut to so many tokens after "
        f"tokenising again. Gated at τ = {report['tau']}, weighted as in `detector/src/evidence.rs`. Entropies are the "
        "model's own, those of a copy whose matrices ONNX Runtime quantised to 8 bits, and those of the model with two of "
        "its five layers left out and nothing trained again: a poor surrogate. Intervals: Clopper–Pearson, "
        f"{report['confidence']:.0%}. All rows of an arm are about the same texts; none is adjusted for the number of rows.",
        table(
            ["entropies", "model bytes", "prompt", "loss on unmarked text", "mean difference of H", "same side of τ"],
            [[READERS[r["reader"]], f"{r['bytes'] / 1e6:.1f} MB", "yes" if r["prompt"] else "no", f"{r['loss']:.3f}",
              f"{r['difference']:.3f}", f"{r['same_side']:.1%}"] for r in report["readers"]],
        ),
    ]
    for arm, title in ARMS.items():
        for tokens in (100, 200):
            mine = [r for r in report["rows"] if r["arm"] == arm and r["tokens"] == tokens]
            parts += [
                f"**{title}**, {tokens} tokens, {mine[0]['texts']} texts:",
                table(
                    ["mode", "entropies", "pairs", "log₁₀ p", "p ≤ 1e-2", "p ≤ 1e-3", "p ≤ 1e-5"],
                    [[r["mode"], reading(r), f"{r['scored']:.0f}", f"{r['mean_log10_p']:.2f}", rate(r, 1e-2),
                      rate(r, 1e-3), rate(r, 1e-5)] for r in mine],
                ),
            ]
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), sharey=True)
    for place, (arm, title) in enumerate(ARMS.items()):
        mine = [r for r in report["rows"] if r["arm"] == arm]
        kinds = list(dict.fromkeys((r["mode"], r["reader"], r["prompt"]) for r in mine))
        for mode, reader, prompt in kinds:
            if reader == "int8" or (reader == "three-layers" and prompt):
                continue
            points = [(r["tokens"], -r["mean_log10_p"]) for r in mine
                      if (r["mode"], r["reader"], r["prompt"]) == (mode, reader, prompt)]
            label = mode if reader is None else f"{mode}, {reading({'reader': reader, 'prompt': prompt})}"
            style = {"model-free": ":", "entropy-gated": "-", "entropy-weighted": "--"}[mode]
            colour = {None: "black", ("own", True): "tab:blue", ("own", False): "tab:green",
                      ("three-layers", False): "tab:red"}[None if reader is None else (reader, prompt)]
            axes[place].plot(*zip(*points), style, marker="o", markersize=3, color=colour, label=label)
        axes[place].set(xlabel="tokens", title=title)
    axes[0].set_ylabel("mean −log₁₀ p")
    axes[0].legend(fontsize=6)
    save(figure, "modes")
    null = report["null"]
    parts += [
        "![Evidence by mode](evidence/modes.svg)",
        MODES_SAY,
        "**Null hypothesis:** what humans wrote after such prompts was made without the key; keys of their own for each "
        f"text, {null[0]['tests']} tests a row, the same texts in all rows (intervals 99 %):",
        table(
            ["mode", "entropies", "α", "p ≤ α", "rate", "interval"],
            [[r["mode"], reading(r), f"{r['alpha']:.0e}", f"{r['positives']} / {r['tests']}",
              sci(r["positives"] / r["tests"]), f"{sci(r['low'])} – {sci(r['high'])}"] for r in null],
        ),
        f"Command: `python3 x.py evidence modes` (`{report['command']}`)",
    ]
    return "\n\n".join(parts)


MODES_SAY = """**What it says.** Under every arm and length the order is the same: weighted, gated, model-free. With the model and the
prompt, weights are worth 1.5 to 4.2 in log₁₀ p over model-free counting at 100 and 200 tokens (at δ 2 and 100 tokens: 170 texts in
place of 151 of 210 at 1e-5), a gate 58 to 77 % of that. Without the prompt a fifth to a quarter of the gain is lost. The 8-bit copy, a
quarter of the size, gives what the model gives. Three layers of five, which predict far worse (loss 2.08 in place of 1.25), still give
about half of the gain with the prompt: entropies rank positions even where they are wrong. All modes keep their level on human text
below."""


# ---- thresholds, tokenising again ----------------------------------------------------------------------------

def threshold_section() -> str:
    report = read("threshold")
    profile = json.loads(report["profile"])
    rows = [r for r in report["rows"] if round(100 * r["tau"]) % 20 == 0 and r["tau"] <= 3 or r["tau"] == report["tau"]]
    return "\n\n".join(
        [
            f"`dandyroll profiles propose-threshold` on {report['positions']:,} positions of {report['documents']} human "
            f"texts (python_heldout), for γ {profile['gamma']}, δ {profile['delta']:g}, h {profile['context_width']}, "
            "temperature 1. No key takes part. For each position the model's distribution p gives, on average over all "
            "lists, what marking would do: with G the probability of the green tokens and α = e^δ, a green token comes with "
            "αG / (1 + (α − 1)G) (*lift* is that less γ), and the marked distribution lies δ·αG / (1 + (α − 1)G) − "
            "ln(1 + (α − 1)G) nats from the unmarked one (*damage*). The expectations take all colourings of the eight "
            "likeliest tokens and a second-order polynomial for the rest. A detector counts n distinct pairs above τ, so "
            "E[z] = Σ lift / √(n γ(1 − γ)); at its peak a further position adds nothing because its lift is half the mean "
            "lift of those above, while every position adds damage. The rule takes the peak.",
            table(
                ["τ (nats)", "positions kept", "pairs scored of 1000", "mean lift", "E[z] on 1000", "damage, nats of 100",
                 "forced positions biased of 100"],
                [[f"{r['tau']:g}" + (" (proposed)" if r["tau"] == report["tau"] else ""), f"{r['kept']:.1%}",
                  f"{r['scored_per_1000']:.0f}", f"{r['lift']:.3f}", f"{r['z_on_1000']:.2f}",
                  f"{r['damage_nats_per_100']:.1f}", f"{r['forced_per_100']:.2f}"] for r in rows],
            ),
            f"The same rule on either half of the documents: τ = {report['halves'][0]:g} and {report['halves'][1]:g}.",
            "![Entropies of human code, and what a threshold would keep](evidence/threshold.svg)",
            THRESHOLD_SAY,
            "Command: `python3 x.py evidence threshold` (`dandyroll profiles propose-threshold --profile code-v1 --model "
            "fixtures/model fixtures/corpora/python_heldout.jsonl`)",
        ]
    )


THRESHOLD_SAY = """**What it says.** The rule proposes 0.95 for the fixture model on human code, on either half of it; `code-v1` has 0.9, a
choice made before, which expects the same power within a thousandth. The peak is flat: between 0.6 and 1.4 nats the expected z
changes by half a per cent, while the share of forced positions that are biased falls from 1.1 in 100 to none. A threshold buys
quality, hardly power."""


def retoken_section() -> str:
    report = read("retoken")
    first = report["first_tokens"]

    def change(a: float | None, b: float | None) -> str:
        return "—" if a is None or b is None else f"{a:.2f} → {b:.2f}"

    rows = [
        [f"{r['set']}, {r['arm']}", f"{r['temperature']:g}", f"{r['changed_texts']} / {r['texts']}",
         f"{r['unusual']} / {r['tokens']} = {r['unusual_share']:.2%}",
         "—" if r["unusual_green"] is None else f"{r['unusual_green']:.0%}",
         f"{r['lost']:.2%} ({100 * r['lost_low']:.2f}–{100 * r['lost_high']:.2f})",
         change(r["generated_log10_p"], r["text_log10_p"]),
         "—" if r["text_detected"] is None else f"{r['generated_detected']} → {r['text_detected']}"]
        for r in report["rows"]
    ]
    return "\n\n".join(
        [
            "What the marker saw are the generated tokens; what a detector sees are the tokens of the text they spell. "
            "*unusual*: a token after another that the tokenizer would not have made of the two; *green*: how many of those "
            "were green (γ 0.25 of them without a mark); *pairs lost*: distinct generated (context, token) pairs that the "
            "text's tokens do not hold, with a 95 % interval (Clopper–Pearson, pairs taken as independent). log₁₀ p and "
            f"texts with p ≤ 1e-5 on their first {first} tokens: from the generated tokens → from the text. Arms named *any* put δ on "
            "every green token; the others, as the generator does by itself, leave likely tokens without δ that the tokenizer "
            "would not have made after the token before (same prompts, keys and uniforms).",
            table(["texts", "T", "texts changed", "unusual", "green", "pairs lost", "log₁₀ p, whole texts",
                   f"detected on {first} tokens"], rows),
            RETOKEN_SAY.format(check_us=report["check_us"]),
            f"Command: `python3 x.py evidence retoken` (`{report['command']}`)",
        ]
    )


RETOKEN_SAY = """**What it says.** A mark that biases every green token makes such neighbours more likely than the model itself does (their
green share is up to 0.87), and each costs the pairs around it. Leaving them without δ brings the pairs lost from 2.0–6.0 % to
0.3–2.5 % (below unmarked text's own in either set). In code mean log₁₀ p of the text gains 0.6 to 1.5 with it. In prose the two arms soon
write different texts, and their means differ by up to 1.7 either way (60 texts): no gain is shown there. Texts detected at 1e-5 on their first
100 tokens hardly change. Asking takes {check_us:.2f} µs a pair without the memory of earlier answers. The null is not touched: nothing about
detection changes. *Rejected*: forbidding such tokens, which would change the model where nothing is marked; judging the generated
ids, which nobody has."""

"""What the page concludes, in five claims; each figure is read from the results that the sections show."""

from __future__ import annotations

import json

from drawing import FOLDER


def read(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def at(rates: list[dict], alpha: float) -> dict:
    return next(rate for rate in rates if rate["alpha"] == alpha)


def error_rates() -> str:
    report = read("null")
    pairs = sum(result["pairs"] for result in report["results"])
    found = sum(at(result["rates"], 1e-5)["positives"] for result in report["results"])
    measured = report["results"] + report["by_length"]
    above = sum(not rate["within"] for part in measured for rate in part["rates"])
    worst = max(n["naive"]["rate"] / n["alpha"] for n in read("power")["naive_null"])
    held = "No interval of a measured rate lies above its level." if not above else f"{above} measured rates lie above their level."
    return (
        f"**The stated error rates hold.** Human texts were judged {pairs:,} times, each time under a new key. {found} times p was "
        f"10⁻⁵ or less, where {pairs * 1e-5:.0f} are allowed. {held} A test that counts repeats errs up to {worst:.0f} times as often "
        "as it says. ([more](#false-positives-on-human-text))"
    )


def lengths() -> str:
    report = read("power")
    by_tokens = {length["tokens"]: at(length["powers"], 1e-5) for length in report["lengths"]}
    rate = lambda tokens, name: f"{by_tokens[tokens][name]['rate']:.0%}"  # noqa: E731
    return (
        f"**A hundred tokens are enough.** With δ {report['delta']:g}, {rate(50, 'ids')} of marked texts are found after 50 "
        f"tokens, {rate(100, 'ids')} after 100, at p ≤ 10⁻⁵. No test at all could find more than {rate(50, 'bound')} and "
        f"{rate(100, 'bound')}. ([more](#power-beside-the-best-that-any-test-could-do))"
    )


def passages() -> str:
    report = read("spans")
    power = at(report["power"], 1e-5)
    return (
        f"**A marked passage is found inside human text.** {report['passage_tokens']} marked tokens (δ {report['delta']:g}) among "
        f"{report['document_tokens']:,} were found {power['found']} times of {power['texts']} at 10⁻⁵. Nine borders in ten are right "
        f"within {power['border_error'][-1]} tokens. ([more](#marked-passages-in-human-documents))"
    )


def edits() -> str:
    kept = ("prose", "left-2", "model-free")
    rows = {
        (row["edit"], row["strength"]): row
        for row in read("robust")["rows"]
        if (row["set"], row["arm"], row["mode"]) == kept
    }
    found = lambda edit, strength: at(rows[edit, strength]["rates"], 1e-5)["detected"]  # noqa: E731
    words, tokens = "words substituted", "tokens substituted"
    return (
        f"**Light edits leave a mark, heavy edits do not.** Of {rows['none', None]['texts']} marked texts of 200 tokens, "
        f"{found('none', None)} are found as they are. With a tenth of the words substituted it is {found(words, 0.1)}, with two "
        f"fifths {found(words, 0.4)}. With two fifths of the tokens substituted it is {found(tokens, 0.4)}. ([more](#what-edits-leave-of-a-mark))"
    )


def single_keys() -> str:
    report = read("background")
    arms = {"none": 0.0, "list 16384": 0.0}
    for measured in report["corpora"]:
        for arm in measured["arms"]:
            if arm["arm"] in arms and not measured["corpus"].endswith("_heldout"):
                arms[arm["arm"]] = max(arms[arm["arm"]], arm["rates"][0]["worst"])
    return (
        f"**A single key can stray on texts that share their wording.** The worst of {report['keys']} keys took {arms['none']:.1%} of "
        f"one corpus for marked at a level of 1%. A list of 16,384 common windows brings the worst to {arms['list 16384']:.1%}, and calibration "
        "refuses such keys. ([more](#one-key-many-texts-background-lists-and-calibration))"
    )


def opening() -> str:
    claims = [error_rates(), lengths(), passages(), edits(), single_keys()]
    numbered = "\n".join(f"{i}. {claim}" for i, claim in enumerate(claims, 1))
    return (
        "What was measured, on the small model in `fixtures/` and on human texts:\n\n"
        f"{numbered}\n\n"
        "![Marked texts detected, by length, beside the best that any test could do](evidence/power.svg)\n\n"
        "The sections below give the methods, the intervals and what was rejected. Long tables are folded: open them to see "
        "every figure."
    )

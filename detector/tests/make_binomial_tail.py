#!/usr/bin/env python3
"""Writes binomial_tail.jsonl: log10 P[Bin(n, threshold / 2^32) >= k] with 30 digits.

    python3 detector/tests/make_binomial_tail.py > detector/tests/binomial_tail.jsonl      (mpmath 1.3.0)

Independent of the Rust code: the probability mass comes from log-gamma at 80 digits, the tail from summing it outwards
from k; where k is at or below the mean the other tail is summed and log1p taken, so that 1 - p keeps 30 digits too.
"""

import math

from mpmath import mp, mpf

mp.dps = 80


def ln_mass(n, k, p):
    return (mp.loggamma(n + 1) - mp.loggamma(k + 1) - mp.loggamma(n - k + 1)
            + k * mp.log(p) + (n - k) * mp.log(1 - p))


def series(first_ratio):
    total, term, i = mpf(1), mpf(1), 0
    while True:
        term *= first_ratio(i)
        if term < total * mpf(10) ** -50:
            return total
        total += term
        i += 1


def log10_tail(n, k, threshold):
    p = mpf(threshold) / 2 ** 32
    if k == 0:
        return mpf(0)
    if k > n * p:
        odds = p / (1 - p)
        total = series(lambda i: odds * (n - k - i) / (k + i + 1))
        return (ln_mass(n, k, p) + mp.log(total)) / mp.log(10)
    j, odds = k - 1, (1 - p) / p
    total = series(lambda i: odds * (j - i) / (n - j + i + 1))
    return mp.log1p(-mp.exp(ln_mass(n, j, p)) * total) / mp.log(10)


def rows():
    for share in [1e-6, 0.01, 0.1, 0.25, 0.5, 0.75, 0.99]:
        threshold = int(share * 2 ** 32)
        p = threshold / 2 ** 32
        for n in [1, 2, 5, 16, 17, 50, 200, 1000, 10_000, 50_000, 100_000, 1_000_000]:
            mean, sigma = n * p, math.sqrt(n * p * (1 - p))
            ks = {0, 1, n // 2, n - 1, n}
            ks |= {round(mean + z * sigma) for z in [-20, -6, -2, -0.5, 0, 0.5, 1, 2, 4, 6, 12, 37]}
            for k in sorted(k for k in ks if 0 <= k <= n):
                yield n, k, threshold
    for n in [2 ** 31, 2 ** 32 - 1]:
        for z in [-3, 0, 5, 40]:
            yield n, round(n * 0.25 + z * math.sqrt(n * 0.1875)), 2 ** 30


for n, k, threshold in rows():
    value = mp.nstr(log10_tail(n, k, threshold), 30)
    print(f'{{"n":{n},"k":{k},"threshold":{threshold},"log10_p":"{value}"}}')

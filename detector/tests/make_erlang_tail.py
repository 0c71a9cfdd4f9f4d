#!/usr/bin/env python3
"""Writes erlang_tail.jsonl: log10 P[E1 + … + En >= x] for n exponentials of mean 1, with 30 digits.

    python3 detector/tests/make_erlang_tail.py > detector/tests/erlang_tail.jsonl      (mpmath 1.4.1)

P = e^-x sum over k < n of x^k / k!. Independent of the Rust code: everything is computed with 80 digits, the masses
from log-gamma. Above the mean the sum is taken downwards from its largest term; at or below it the other tail is summed
upwards and log1p taken, so that 1 - p keeps 30 digits too. For n up to 200 the whole sum is taken as it is defined, and
the two are asserted to agree to 40 digits. x is a binary64 number, printed so that it reads back.
"""

import math

from mpmath import mp, mpf

mp.dps = 80


def ln_mass(k, x):
    return k * mp.log(x) - x - mp.loggamma(k + 1)


def series(ratio):
    total, term, i = mpf(1), mpf(1), 0
    while term >= total * mpf(10) ** -60:
        term *= ratio(i)
        total += term
        i += 1
    return total


def ln_tail(n, x):
    x = mpf(x)
    if x > n:
        return ln_mass(n - 1, x) + mp.log(series(lambda i: (n - 1 - i) / x))
    return mp.log1p(-mp.exp(ln_mass(n, x)) * series(lambda i: x / (n + 1 + i)))


def defined(n, x):
    x, term, total = mpf(x), mpf(1), mpf(1)
    for k in range(1, n):
        term *= x / k
        total += term
    return mp.log(total) - x


def points(n):
    below = [1e-6, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99]
    above = [1, 1.01, 1.05, 1.1, 1.25, 1.5, 2, 3, 5, 10, 100, 1000]
    xs = {n * ratio for ratio in below + above}
    xs |= {n + z * math.sqrt(n) for z in [-37, -12, -6, -4, -2, -1, -0.5, 0.5, 1, 2, 4, 6, 12, 37, 100]}
    xs |= {math.nextafter(n, 0), math.nextafter(n, 2 * n)}
    return sorted(x for x in xs if x > 0)


def rows():
    for n in [1, 2, 3, 5, 8, 15, 16, 17, 31, 50, 100, 200, 333, 500, 1000, 1414, 2000]:
        for x in points(n):
            yield n, x
    for n in [10_000, 100_000, 1_000_000, 10_000_000]:
        for z in [-37, -6, -1, 0, 1, 6, 37, 300]:
            yield n, n + z * math.sqrt(n)


for n, x in rows():
    value = ln_tail(n, x)
    if n <= 200:
        # ln p loses what 1 - p is smaller than p: there the comparison is absolute.
        assert abs(value - defined(n, x)) < mpf(10) ** -40 * max(1, abs(value)), (n, x)
    print(f'{{"n":{n},"x":"{float(x)!r}","log10_p":"{mp.nstr(value / mp.log(10), 30)}"}}')

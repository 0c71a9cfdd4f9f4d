"""Ray Data gives the numbers of the package."""

import pyarrow as pa
import pytest

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")

from dandyroll import Detector  # noqa: E402
from detect import detect  # noqa: E402


def test_the_numbers_are_the_packages(tokenizer, human, make_key, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    key = make_key("a")
    texts = [*human, None]
    ids = [f"doc-{i}" for i in range(len(texts))]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        data = ray.data.from_arrow(pa.table({"id": ids, "text": pa.array(texts, pa.string())})).repartition(3)
        rows = detect(data, str(tokenizer), [str(key)], "prose-v1", 1e-5, 1).take_all()
    finally:
        ray.shutdown()
    got = {row["id"]: row for row in rows}
    expected = Detector(tokenizer, [key]).detect(texts).to_pylist()
    assert len(got) == len(ids)
    for name, row in zip(ids, expected, strict=True):
        assert {"id": name, **row} == got[name]

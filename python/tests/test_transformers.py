"""Marking with transformers: the logits are Rust's to the last bit, and the Rust detector finds the text."""

import hashlib
import json

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dandyroll import Detector  # noqa: E402
from dandyroll.transformers import MarkLogitsProcessor  # noqa: E402


def test_logits_agree_with_the_keyed_function_to_the_last_bit(tokenizer, make_key):
    import prf_v1

    key_file = make_key("a")
    master = bytes.fromhex(json.loads(key_file.read_text())["master"])
    key = prf_v1.sub_key(master, hashlib.sha256(tokenizer.read_bytes()).digest(), 2)
    mark = MarkLogitsProcessor(tokenizer, key_file)
    torch.manual_seed(7)
    prompt = torch.randint(0, 6000, (3, 5))
    scores = torch.randn(3, 6144) * 4
    assert torch.equal(mark(prompt, scores), scores)
    ids = torch.cat([prompt, torch.randint(0, 6000, (3, 1))], dim=1)
    assert torch.equal(mark(ids, scores), scores)
    ids = torch.cat([ids, torch.randint(0, 6000, (3, 1))], dim=1)
    found = mark(ids, scores)
    for row in range(3):
        context = ids[row, -2:].tolist()
        green = torch.tensor([word < 2**30 for word in prf_v1.vocabulary(key, context, 6144)])
        expected = torch.where(green, scores[row] + 2.0, scores[row])
        assert torch.equal(found[row].view(torch.int32), expected.view(torch.int32))
    assert mark.steps == {"short_context": 6, "biased": 3}
    # Another prompt begins another generation.
    assert torch.equal(mark(ids[:, :4], scores), scores)
    with pytest.raises(ValueError, match="no distribution"):
        mark(ids[:, :5], torch.full((3, 6144), float("nan")))


@pytest.mark.parametrize("settings", [{"do_sample": True}, {"do_sample": True, "num_beams": 2}])
def test_generated_text_is_found(tokenizer, make_key, settings):
    torch.manual_seed(3)
    config = transformers.GPT2Config(vocab_size=6144, n_positions=512, n_embd=32, n_layer=1, n_head=2)
    model = transformers.GPT2LMHeadModel(config).eval()
    mark = MarkLogitsProcessor(tokenizer, make_key("a"))
    prompt = torch.randint(0, 6000, (1, 6))
    with torch.no_grad():
        out = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=320,
            min_new_tokens=320,
            pad_token_id=0,
            logits_processor=[mark],
            **settings,
        )
    vocabulary = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tokenizer))
    text = vocabulary.decode(out[0, 6:])
    detector = Detector(tokenizer, [make_key("a"), make_key("b")])
    found = detector.detect_one(text)
    # An untrained model writes noise, so encoding the text splits it elsewhere in places.
    assert found["verdict"] == "detected", found
    assert found["findings"][0]["key_id"] == mark.key_id
    assert found["findings"][1]["verdict"] != "detected"

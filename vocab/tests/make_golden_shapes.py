"""Writes golden_shapes.jsonl: small tokenizers of the shapes in use, and what Python `tokenizers` makes of texts.

    python make_golden_shapes.py > golden_shapes.jsonl

One line a shape: its tokenizer.json, texts, ids and decoded text. The tokenizers are trained on
the texts below, so they are tiny; what matters is how their parts treat spaces, bytes and added tokens.
"""

import json

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CORPUS = [
    "the cat sat on the mat and the dog sat on the log", "naïve façade déjà vu, the the the", "def f(x):\n    return x + 1\n",
    "漢字と仮名 漢字 仮名", "привет мир, привет", "  two  spaces   three    four", "<s> is not special here", "a_b_c 1 2 3 10 100",
] * 4

TEXTS = [
    "", " ", "  ", "the cat", " the cat", "  the  cat  ", "thecat\n\n  sat", "漢字 仮名 鬱", "déjà vu 👩🏽 \x00\x01", "привет, mir",
    "▁the▁cat", "the▁ cat", "▁", "<s>", "</s>the cat", "the cat</s>", "the </s> cat", "a</s></s>b", "</s> ▁x", "<0x41>", "x<0x0A>y",
    "[L] the", "the   [L]cat", "cat[R]   dog", "cat [B] dog", "[B]", " [B] [B] ", "word", "a word b", "swords", "\n\n\n", "\t\tx", "e\u0301",
]

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
EOS = AddedToken("</s>", special=True, normalized=False)
STRIPPED = [
    EOS, AddedToken("[L]", lstrip=True, normalized=False), AddedToken("[R]", rstrip=True, normalized=False),
    AddedToken("[B]", lstrip=True, rstrip=True, normalized=False, special=True), AddedToken("word", single_word=True, normalized=True),
]


def pieces(normalizer, pre_tokenizer, decoder, byte_fallback=True, added=(EOS,)):
    """BPE over text, as SentencePiece writes it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=byte_fallback))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoder
    trainer = trainers.BpeTrainer(vocab_size=420 if byte_fallback else 160, special_tokens=["<unk>", *(BYTES if byte_fallback else [])], show_progress=False)
    tokenizer.train_from_iterator([part for text in CORPUS for part in text.split("\n")], trainer)
    # The trainer made its bytes added tokens; models in use have them in the vocabulary only.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] == "<unk>"]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.add_tokens(list(added))
    return tokenizer


def byte_level(normalizer, added):
    tokenizer = Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_tokens(list(added))
    return tokenizer


def main():
    blank = normalizers.Replace(" ", "▁")
    back = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    metaspace = lambda scheme: pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    shapes = {
        "llama2": pieces(normalizers.Sequence([normalizers.Prepend("▁"), blank]), None, decoders.Sequence([*back, decoders.Strip(" ", 1, 0)])),
        "mistral": pieces(None, metaspace("first"), decoders.Sequence([*back, decoders.Strip(" ", 1, 0)])),
        "metaspace-always": pieces(None, metaspace("always"), decoders.Metaspace(prepend_scheme="always"), byte_fallback=False),
        "gemma": pieces(blank, pre_tokenizers.Split(" ", "merged_with_previous"), decoders.Sequence(back),
                        added=[EOS, AddedToken("\n\n", normalized=False), AddedToken("▁▁", normalized=False)]),
        "gpt2": byte_level(None, [EOS]),
        "qwen2": byte_level(normalizers.NFC(), [EOS]),
        "stripping": byte_level(None, STRIPPED),
    }
    for name, tokenizer in shapes.items():
        found = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
        print(json.dumps({
            "name": name,
            "tokenizer": json.loads(tokenizer.to_str()),
            "texts": TEXTS,
            "ids": [one.ids for one in found],
            "decoded": [tokenizer.decode(one.ids, skip_special_tokens=False) for one in found],
        }, separators=(",", ":"), ensure_ascii=False))


main()

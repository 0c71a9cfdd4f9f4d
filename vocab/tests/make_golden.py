"""Writes golden.jsonl: what the Python package `tokenizers` makes of hard texts.

    python make_golden.py TOKENIZER_JSON > golden.jsonl

The Rust test (golden.rs) reads that file and must find the same ids and character offsets. First line:
versions and the SHA-256 of tokenizer.json. Then one line a text. Last line: 2 000 strings made of
`fragments` by a linear congruential generator (both sides make the same ones), of which only the first
eight hexadecimal digits of a SHA-256 over their ids are kept. Texts are encoded
as they stand, not normalised first.
"""

import hashlib
import json
import sys
import unicodedata

import tokenizers

TEXTS = [
    "", " ", "\n", "a", "The quick brown fox jumps over the lazy dog.  Twice!\n\n\tAnd 1234567890 times more.",
    "Ça va être l'été; naïve façade, Zürich, Łódź, İstanbul, œuvre — « déjà vu » …",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. Ґанок їжака.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Ἐν ἀρχῇ ἦν ὁ λόγος",
    "नमस्ते दुनिया, क़लम और ज़मीन। हिन्दी में लिखा हुआ पाठ।",
    "مرحبا بالعالم، هذا نص عربي. می‌خواهم کتاب‌ها را بخوانم.",
    "שָׁלוֹם עוֹלָם, זהו טקסט בעברית.",
    "我能吞下玻璃而不伤身体。漢字と仮名、カタカナも混ぜて書く。",
    "다람쥐 헌 쳇바퀴에 타고파. 한국어 텍스트입니다.",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า",
    "குறள் அகர முதல எழுத்தெல்லாம்", "ქართული ენა", "Հայերեն լեզու", "አማርኛ ቋንቋ",
    "👍🏽 👩‍👩‍👧‍👦 🏴󠁧󠁢󠁥󠁮󠁧󠁿 🇫🇷🇩🇪 1️⃣ ❤️ 🤷🏾‍♀️ 😀😀😀😀",
    "def f(x: int) -> str:\n    \"\"\"Doc.\"\"\"\n    return f'{x:>10}' if x != 0 else \"\\n\"\n\n\nclass A(B):\n\tpass\n",
    "#include <stdio.h>\nint main(void) { for (;;) { printf(\"%d\\n\", 0xFF & ~1); } /* … */ }\r\n",
    "SELECT * FROM t WHERE a >= 1.5e-10 AND b LIKE '%x_y%';--comment\n{\"k\":[1,2,{\"z\":null}]}",
    "\0\x01\x02\x1b[31mred\x1b[0m\x7f\x80\x85\x9f\u2028\u2029\ufffd\uffff", "\0", "\r\r\n\r", "\ufeffBOM", "a\u200bb\u200cc\u200dd\u2060e",
    "e\u0301 vs \u00e9; \u212b vs \u00c5; \u1100\u1161\u11a8 vs \uac01",
    "<|endoftext|>", "a<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "<|endoftext|><|endoftext|> <|im_end|>x",
    "<|endoftext", "<|<|im_end|>|>", "  <|im_start|>  ", "\u00a0\u2003\u3000 \t \n \u00a0x",
    "I'll we've DON'T it's 'S 'sdf ''''", "a" * 300, " " * 200 + "x", "\n" * 100, "ab" * 100 + "!" * 50, "0123456789" * 10,
    "é" * 60, "語" * 60, "👩" * 40, "\u0301" * 50, "Zalgo: Z̷̢͎͝a̸͖̔ĺ̵̮g̶̹͊o̴͚͠", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟘𝟙𝟚 ﬁ ﬀ Ⅷ ½ ²",
]

FRAGMENTS = [
    " ", "  ", "\n", "\n\n", "\t", "\r\n", "a", "e", "the", "The", " of", "ing", "'s", "'LL", "0", "42", "9" * 5, "x" * 9, ".", ",", "()", "{}", "==",
    "->", "//", "_", "-", "…", "—", "\u00a0", "\u3000", "\u2028", "\0", "\x1b", "\x7f", "é", "ß", "ё", "Ж", "λ", "ω", "א", "ב", "م", "ن", "ه", "क",
    "ि", "्", "ก", "ำ", "中", "文", "の", "カ", "한", "글", "\u1100", "\u1161", "\u0301", "\u0323", "\u200d", "\u200b", "\ufe0f", "👍", "🏽", "👩", "🇫", "🇷",
    "𝔘", "\ufffd", "\uffff", "\U0010ffff", "<|endoftext|>", "<|im_end|>", "<|", "|>", "def ", "return", "self.", "import", "http://", "=\"", "\\n",
]

MASK = (1 << 64) - 1


def fuzz(count):
    """Strings of 0 to 15 fragments."""
    state = 20_260_101
    for _ in range(count):
        parts = []
        state = (state * 6364136223846793005 + 1442695040888963407) & MASK
        for _ in range((state >> 33) % 16):
            state = (state * 6364136223846793005 + 1442695040888963407) & MASK
            parts.append(FRAGMENTS[(state >> 33) % len(FRAGMENTS)])
        yield "".join(parts)


def main():
    path = sys.argv[1]
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    tokenizer = tokenizers.Tokenizer.from_file(path)
    write = lambda row: print(json.dumps(row, separators=(",", ":")))
    write({"tokenizers": tokenizers.__version__, "tokenizer_sha256": digest})
    for text in TEXTS:
        found = tokenizer.encode(text, add_special_tokens=False)
        row = {"text": text, "ids": found.ids, "offsets": [list(pair) for pair in found.offsets]}
        row["decoded"] = tokenizer.decode(found.ids, skip_special_tokens=False) == text
        write(row)
    hashes = []
    for text in fuzz(2000):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        packed = b"".join(i.to_bytes(4, "little") for i in ids)
        hashes.append(hashlib.sha256(packed).hexdigest()[:8])
    write({"fragments": FRAGMENTS, "hashes": " ".join(hashes)})


main()

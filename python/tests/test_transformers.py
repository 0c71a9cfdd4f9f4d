"""Marking with transformers: logits are Rust's to the last bit, and the Rust detector finds the text."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import transformers

import prf_v1
from dandyroll import Detector
from dandyroll.transformers import WatermarkLogitsProcessor
from shared import CORPORA, MODEL, Command, MakeKey, master_of
from test_detector import assert_no_secret

SIZE = 6144


@pytest.fixture(scope="module")
def model() -> Any:
    """The fixture model as a LlamaForCausalLM: its ONNX file's weights under transformers' names."""
    # So small a model gains nothing from more, and loses much where other programs run.
    torch.set_num_threads(1)
    weights = {
        tensor.name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
        for tensor in onnx.load(MODEL / "model.onnx").graph.initializer
        if tensor.name.startswith("layers.") or tensor.name in ("embedding", "norm")
    }
    config = transformers.AutoConfig.from_pretrained(MODEL)
    model = transformers.LlamaForCausalLM(config).eval()
    state = {"model.embed_tokens.weight": weights["embedding"], "model.norm.weight": weights["norm"]}
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    for layer in range(config.num_hidden_layers):
        ours = {name.split(".")[2]: value for name, value in weights.items() if name.startswith(f"layers.{layer}.")}
        q, k, v = ours["qkv"].T.split([queries, keys, keys])
        gate, up = ours["up"].T.chunk(2)
        state |= {
            f"model.layers.{layer}.{name}.weight": value.contiguous()
            for name, value in {
                "input_layernorm": ours["norm1"],
                "self_attn.q_proj": q,
                "self_attn.k_proj": k,
                "self_attn.v_proj": v,
                "self_attn.o_proj": ours["out"].T,
                "post_attention_layernorm": ours["norm2"],
                "mlp.gate_proj": gate,
                "mlp.up_proj": up,
                "mlp.down_proj": ours["down"].T,
            }.items()
        }
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected
    model.tie_weights()
    return model


@pytest.fixture(scope="module")
def encoder() -> Any:
    """The fixture tokenizer in transformers, padding on the left."""
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(MODEL / "tokenizer.json"),
        pad_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        padding_side="left",
    )


def prompts(count: int) -> list[str]:
    """Beginnings of held-out code, of different lengths."""
    lines = (CORPORA / "prompts.jsonl").read_text().splitlines()
    return [json.loads(line)["text"] for line in lines[: 9 * count : 9]]


def generate(model: Any, inputs: Any, mark: WatermarkLogitsProcessor | None, **settings: Any) -> torch.Tensor:
    """The new tokens of each row."""
    with torch.no_grad():
        out: torch.Tensor = model.generate(
            **inputs, logits_processor=[mark] if mark else None, pad_token_id=0, eos_token_id=None, **settings
        )
    return out[:, inputs["input_ids"].shape[1] :]


def code_profile(command: Command, folder: Path) -> Path:
    """`code-v1` bound to the fixture model."""
    path = folder / "code.json"
    path.write_text(command("profiles", "show", "code-v1", "--model", MODEL))
    return path


def independent(name: str, width: int, context: list[int], logits: torch.Tensor, delta: float) -> torch.Tensor:
    """What a row becomes, by the implementation of the keyed function that shares no code with ours."""
    digest = hashlib.sha256((MODEL / "tokenizer.json").read_bytes()).digest()
    key = prf_v1.sub_key(master_of(name), digest, width)
    words = prf_v1.vocabulary(key, context, logits.shape[0])
    green = torch.tensor([word < 2**30 for word in words])
    return torch.where(green, logits + torch.tensor(delta, dtype=torch.float32), logits)


def bits(values: torch.Tensor) -> torch.Tensor:
    """Floats as their bits: NaN and signed zeros compare, too."""
    return values.contiguous().view(torch.int32)


def test_marked_logits_agree_to_the_last_bit(tokenizer: Path, make_key: MakeKey) -> None:
    mark = WatermarkLogitsProcessor(tokenizer, make_key("a"), only_usual=False)
    torch.manual_seed(7)
    prompt = torch.randint(0, SIZE, (3, 5))
    # Sizes at which adding 2 rounds, subnormal numbers, signed zeros, forbidden tokens.
    scores = torch.randn(3, SIZE) * torch.tensor([4.0, 1e3, 1e-3]).unsqueeze(1)
    scores[0, :6] = torch.tensor([0.0, -0.0, 1e-40, -1e-40, float("-inf"), 3e38])
    ids = prompt
    for step in range(4):
        before = scores.clone()
        found = mark(ids, scores)
        assert torch.equal(bits(scores), bits(before)) and found.dtype == torch.float32
        for row in range(3):
            context = ids[row, 5:].tolist()[-2:]
            expected = independent("a", 2, context, scores[row], 2.0) if step >= 2 else scores[row]
            assert torch.equal(bits(found[row]), bits(expected)), (step, row)
        ids = torch.cat([ids, torch.randint(0, SIZE, (3, 1))], dim=1)
    assert mark.steps == {"short_context": 6, "marked": 6}


def test_what_the_tokenizer_would_not_write_keeps_its_bits(tokenizer: Path, make_key: MakeKey, encoder: Any) -> None:
    """Of the 256 likeliest at most 8 below the first; the rule written again with the tokenizer of transformers."""
    mark = WatermarkLogitsProcessor(tokenizer, make_key("a"))
    whole = WatermarkLogitsProcessor(tokenizer, make_key("a"), only_usual=False)
    torch.manual_seed(10)

    def own(ids: list[int]) -> bool | None:
        text = encoder.decode(ids, clean_up_tokenization_spaces=False)
        # Parts of a character cannot be asked about.
        return None if "\ufffd" in text else bool(encoder.encode(text, add_special_tokens=False) == ids)

    # Few above the bound, and more than are asked about; after tokens that many others would be merged with.
    taken = 0
    for scale, text in ((3.0, "\n"), (0.5, "a"), (0.5, " s"), (0.5, " re"), (1.5, " in"), (0.5, "e"), (0.5, " c")):
        context = [400, *encoder.encode(text, add_special_tokens=False)]
        assert len(context) == 2, text
        scores = torch.randn(1, SIZE) * scale
        found, marked = scores, scores
        for length in range(3):
            ids = torch.tensor([[5, *context[:length]]])
            found, marked = mark(ids, scores), whole(ids, scores)
        expected = marked.clone()
        order = sorted(range(SIZE), key=lambda at: (-float(marked[0, at]), at))
        least = torch.tensor(float(marked.max())) - torch.tensor(8.0)
        for at in order[:256]:
            if marked[0, at] >= least and own([at]) and own(context[1:]) and own([context[1], at]) is False:
                expected[0, at] = scores[0, at]
                taken += 1
        assert torch.equal(bits(found), bits(expected))
        mark.reset()
        whole.reset()
    assert taken > 20


def test_halves_are_marked_in_single_precision(tokenizer: Path, make_key: MakeKey) -> None:
    torch.manual_seed(8)
    ids, whole = torch.randint(0, SIZE, (1, 4)), torch.randn(1, SIZE)
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        mark = WatermarkLogitsProcessor(tokenizer, make_key("a"), only_usual=False)
        mark(ids[:, :2], whole)
        mark(ids[:, :3], whole)
        found = mark(ids, whole.to(kind))
        expected = independent("a", 2, ids[0, 2:].tolist(), whole.to(kind).float()[0], 2.0)
        assert torch.equal(bits(found[0]), bits(expected)), kind


def test_the_entropy_threshold_is_strict_and_each_rows_own(
    tokenizer: Path, make_key: MakeKey, command: Command, tmp_path: Path
) -> None:
    mark = WatermarkLogitsProcessor(tokenizer, make_key("a"), code_profile(command, tmp_path), only_usual=False)
    assert mark.entropy_threshold == 0.9
    mark(torch.tensor([[5], [5], [5]]), torch.zeros(3, SIZE))
    # Two and three equal logits among forbidden ones: ln 2 = 0.69 and ln 3 = 1.1 nats; and one sure token.
    scores = torch.full((3, SIZE), float("-inf"))
    scores[0, :2] = scores[1, :3] = scores[2, :1] = 1.25
    found = mark(torch.tensor([[5, 17], [5, 17], [5, 17]]), scores)
    assert torch.equal(bits(found[0]), bits(scores[0])) and torch.equal(bits(found[2]), bits(scores[2]))
    assert torch.equal(bits(found[1]), bits(independent("a", 1, [17], scores[1], 3.0)))
    assert mark.steps == {"short_context": 3, "low_entropy": 2, "marked": 1}


def test_generations_are_told_apart(tokenizer: Path, make_key: MakeKey) -> None:
    mark = WatermarkLogitsProcessor(tokenizer, make_key("a"))
    torch.manual_seed(9)
    ids, scores = torch.randint(0, SIZE, (2, 12)), torch.randn(2, SIZE)

    def marked(tokens: torch.Tensor) -> bool:
        rows = scores[: tokens.shape[0]]
        return not torch.equal(mark(tokens, rows), rows)

    assert [marked(ids[:, :length]) for length in (4, 5, 6, 7)] == [False, False, True, True]
    # An assistant model's tokens taken back: still the same generation.
    assert [marked(ids[:, :length]) for length in (5, 6, 7)] == [False, True, True]
    # The next turn of a conversation goes on behind what was generated, more than one token later.
    assert [marked(ids[:, :length]) for length in (10, 11, 12)] == [False, False, True]
    # Other rows, another prompt.
    assert not marked(ids[:1, :12]) and not marked(ids.flip(1)[:, :12])
    for length in (4, 5, 6):
        mark(ids[:, :length], scores)
    mark.reset()
    assert not marked(ids[:, :7])


def test_faults_are_named_and_no_key_is_shown(
    tokenizer: Path, make_key: MakeKey, command: Command, tmp_path: Path
) -> None:
    key = make_key("a")
    mark = WatermarkLogitsProcessor(tokenizer, key)
    scores = torch.zeros(2, SIZE)
    scores[1, 3] = float("nan")
    with pytest.raises(ValueError, match="logits of row 1 define no distribution"):
        mark(torch.tensor([[1], [2]]), scores)
    with pytest.raises(ValueError, match=r"`dandyroll profiles show code-v1 --model DIR`"):
        WatermarkLogitsProcessor(tokenizer, key, "code-v1")
    with pytest.raises(ValueError, match="gumbel chooses from the final distribution"):
        WatermarkLogitsProcessor(tokenizer, key, "gumbel-v1")
    other = tmp_path / "tokenizer.json"
    other.write_text(tokenizer.read_text() + "\n")
    with pytest.raises(ValueError, match="is for another tokenizer"):
        WatermarkLogitsProcessor(other, key, code_profile(command, tmp_path))
    again = pickle.loads(pickle.dumps(mark))
    assert again.key_id == copy.deepcopy(mark).key_id == mark.key_id and again.profile_id == mark.profile_id
    assert_no_secret(pickle.dumps(mark), "a")
    assert_no_secret(repr(mark) + repr(vars(mark)), "a")
    key.chmod(0o640)
    with pytest.raises(ValueError, match="mode 0640"):
        WatermarkLogitsProcessor(tokenizer, key)


@pytest.mark.parametrize("marked", [False, True])
def test_greedy_text_is_the_command_lines(
    model: Any, encoder: Any, make_key: MakeKey, command: Command, tokenizer: Path, marked: bool
) -> None:
    """ONNX Runtime in Rust and torch in Python write the same tokens, unmarked and under the same key."""
    [prompt] = prompts(1)
    key = make_key("a")
    marking = ["--profile", "prose-v1", "--key-file", key] if marked else ["--unmarked"]
    greedy = ["--max-new-tokens", 60, "--temperature", 0, "--json"]
    said = json.loads(command("generate", "--model", MODEL, "--prompt", prompt, *greedy, *marking))
    mark = WatermarkLogitsProcessor(tokenizer, key) if marked else None
    found = generate(model, encoder([prompt], return_tensors="pt"), mark, max_new_tokens=60, do_sample=False)
    assert len(said["tokens"]) > 40
    assert found[0].tolist()[: len(said["tokens"])] == said["tokens"]
    if mark:
        assert mark.steps == {"short_context": 2, "marked": 58}
        steps = [step["marked"] for step in said["steps"]]
        assert steps[:2] == ["short_context"] * 2 and set(steps[2:]) == {"marked"}


def test_a_batch_of_unequal_prompts_is_marked_row_by_row(
    model: Any, encoder: Any, make_key: MakeKey, tokenizer: Path
) -> None:
    """Greedy rows of a left-padded batch are what each prompt gives alone."""
    given = prompts(3)
    inputs = encoder(given, return_tensors="pt", padding=True)
    assert len({int(count) for count in inputs["attention_mask"].sum(1)}) == 3
    mark = WatermarkLogitsProcessor(tokenizer, make_key("a"))
    together = generate(model, inputs, mark, max_new_tokens=24, do_sample=False)
    for row, prompt in enumerate(given):
        alone = generate(model, encoder([prompt], return_tensors="pt"), mark, max_new_tokens=24, do_sample=False)
        assert alone[0].tolist() == together[row].tolist()


@pytest.mark.parametrize("settings", [{"do_sample": True, "top_p": 0.95}, {"do_sample": True, "num_beams": 2}])
def test_generated_text_is_found(
    model: Any, encoder: Any, make_key: MakeKey, tokenizer: Path, command: Command, settings: dict[str, Any]
) -> None:
    """Three rows, 200 tokens each; found by the package and by the command line, and under no other key."""
    transformers.set_seed(3)
    inputs = encoder(prompts(3), return_tensors="pt", padding=True)
    mark = WatermarkLogitsProcessor(tokenizer, make_key("a"))
    texts = [encoder.decode(row) for row in generate(model, inputs, mark, max_new_tokens=200, **settings)]
    rows = Detector(tokenizer, [make_key("a"), make_key("b")]).detect(texts).to_pylist()
    for row, text in zip(rows, texts, strict=True):
        assert row["verdict"] == "detected" and row["key_id"] == mark.key_id, row
        assert row["findings"][1]["log10_p_adjusted"] > -3
        said = json.loads(
            command(
                *("detect", "--tokenizer", tokenizer, "--profile", "prose-v1", "--json"),
                *("--key-file", make_key("a"), "--key-file", make_key("b")),
                text=text,
            )
        )
        assert said["verdict"] == "detected" and said["findings"][0]["log10_p"] == row["log10_p"]
    transformers.set_seed(3)
    unmarked = [encoder.decode(row) for row in generate(model, inputs, None, max_new_tokens=200, **settings)]
    assert "detected" not in Detector(tokenizer, [make_key("a")]).detect(unmarked)["verdict"].to_pylist()


class Recording(WatermarkLogitsProcessor):
    """Remembers at which steps of one sequence it marked."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.FloatTensor:
        """Marks one step."""
        before = self.steps["marked"]
        marked = super().__call__(input_ids, scores)
        self.__dict__.setdefault("marked", []).append(self.steps["marked"] > before)
        return marked


def test_text_marked_above_the_threshold_is_found_where_the_model_had_a_choice(
    model: Any, encoder: Any, make_key: MakeKey, command: Command, tmp_path: Path
) -> None:
    """`code-v1`: torch decides where to mark, ONNX Runtime in Rust where to count."""
    profile = code_profile(command, tmp_path)
    transformers.set_seed(4)
    [prompt] = prompts(1)
    mark = Recording(MODEL, make_key("a"), profile)
    inputs = encoder([prompt], return_tensors="pt")
    tokens = generate(model, inputs, mark, max_new_tokens=240, do_sample=True)[0].tolist()
    text = encoder.decode(tokens)
    assert mark.steps["low_entropy"] > 20 and mark.steps["marked"] > 100
    (tmp_path / "prompt.txt").write_text(prompt)
    said = json.loads(
        command(
            *("detect", "--model", MODEL, "--profile", profile, "--key-file", make_key("a"), "--json"),
            *("--prompt-file", tmp_path / "prompt.txt"),
            text=text,
        )
    )
    [finding] = said["findings"]
    assert (finding["mode"], said["verdict"], said["profile"]) == ("entropy-gated", "detected", mark.profile_id)
    # A pair of tokens is scored once. What the tokenizer reads as other tokens is not what was marked.
    steps = zip(tokens[:-1], tokens[1:], vars(mark)["marked"][1:], strict=True)
    pairs = {(last, token) for last, token, marked in steps if marked}
    assert abs(finding["scored"] - len(pairs)) <= len(pairs) // 10

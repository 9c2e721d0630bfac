"""Properties that hold for any input; hypothesis searches for counterexamples."""

import csv
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import conditional_logits
from sklearn.metrics import accuracy_score, f1_score
from sweep_records import record, write_sweep
from tiny_backbone import make_tiny_backbone

import cocoop.text.tree as tree_module
from cocoop import from_pretrained
from cocoop.backbones.tokenizers import clip_tokenizer
from cocoop.config import TrainConfig, parse_bytes
from cocoop.data import Item, load_data
from cocoop.data.few_shot import chosen_labels, sample_few_shot
from cocoop.errors import CocoopError
from cocoop.evaluation.metrics import Evaluation, harmonic_mean
from cocoop.experiments.records import read_sweep
from cocoop.methods import CoCoOp
from cocoop.report.explain_page import explanation_page
from cocoop.report.sweep_tables import sweep_tables
from cocoop.report.sweep_text import failure_table, sweep_csv, sweep_markdown
from cocoop.storage.json_files import read_json, read_json_lines, write_json, write_json_lines
from cocoop.text.prompts import clean_name

pytestmark = pytest.mark.usefixtures("one_thread")

quick = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
slow = settings(quick, max_examples=12)


def try_call(do):
    """Return the error message and None, or None and the result."""
    try:
        return None, do()
    except CocoopError as error:
        return str(error), None


WORDS = ["cat", "tree frog", "great white shark", "2012 BMW M3", "2012 BMW X5", "a", "bird of paradise flower"]
names = st.lists(
    st.one_of(st.sampled_from(WORDS), st.text("abcde fgh", min_size=1, max_size=40).filter(str.strip)),
    min_size=2,
    max_size=9,
    unique_by=lambda name: name.strip(),
)
BACKBONE = make_tiny_backbone(layers=2)


@slow
@given(
    names, st.integers(1, 4), st.sampled_from([10, 25, 2048]), st.sampled_from([0, 30_000, 10**9]), st.integers(0, 99)
)
def test_logits_and_gradients_match_the_published_function(names, batch, rows, budget, seed):
    before, BACKBONE.text_tower.memory_budget = tree_module.CPU_ROWS, budget
    tree_module.CPU_ROWS = rows
    try:
        method = CoCoOp(BACKBONE, names, seed=seed)
        images = torch.randn(batch, BACKBONE.embed_dim, generator=torch.Generator().manual_seed(seed))
        labels = torch.arange(batch) % len(names)
        plain = conditional_logits(BACKBONE, names, images, method.context, method.meta_net)
        torch.testing.assert_close(method.logits(images), plain, rtol=0, atol=1e-4)
        expected = torch.autograd.grad(
            torch.nn.functional.cross_entropy(plain, labels), list(method.learned().values())
        )
        for loss, _ in method.losses(images, labels):
            loss.backward()
        for tensor, gradient in zip(method.learned().values(), expected, strict=True):
            torch.testing.assert_close(tensor.grad, gradient, rtol=1e-4, atol=1e-5)
        some = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))[
            : max(1, len(names) // 2)
        ].tolist()
        torch.testing.assert_close(method.logits_of(some)(images), plain[:, some], rtol=0, atol=1e-4)
    finally:
        tree_module.CPU_ROWS, BACKBONE.text_tower.memory_budget = before, None


# Any characters: lone surrogates, control characters, emoji, right-to-left text.
anything = st.text(st.characters(exclude_categories=[]), max_size=300)


@quick
@given(st.lists(anything, min_size=1, max_size=5))
def test_any_text_is_a_class_name_or_refused(texts):
    message, method = try_call(lambda: CoCoOp(BACKBONE, texts, seed=1))
    if message is not None:
        assert len(message) > 10
        return
    assert method.classnames == tuple(texts)
    with torch.no_grad():
        assert method.logits(torch.ones(1, BACKBONE.embed_dim)).isfinite().all()


@quick
@given(st.text(st.characters(exclude_categories=[]), min_size=20, max_size=200).filter(clean_name))
def test_too_long_names_are_refused_with_their_length(name):
    tokens = 1 + 4 + len(BACKBONE.tokenizer.encode(f"{clean_name(name)}.")) + 1
    message, _ = try_call(lambda: CoCoOp(BACKBONE, ["cat", name]))
    if tokens > 77:
        start = f"The prompt of class {name!r} has {tokens} tokens, more than the text tower's 77; shorten the name,"
        # Long messages are shortened in the middle.
        assert message == str(CocoopError(f"{start} the template or the context."))
    else:
        assert message is None


def test_ten_thousand_class_names():
    many = [f"name {number} of many" for number in range(10_000)]
    method = CoCoOp(BACKBONE, many, seed=1)
    with torch.no_grad():
        logits = method.logits(torch.ones(1, BACKBONE.embed_dim))
        few = method.logits_of([3, 9_999])(torch.ones(1, BACKBONE.embed_dim))
    assert logits.shape == (1, 10_000)
    torch.testing.assert_close(logits[:, [3, 9_999]], few, rtol=0, atol=1e-4)


@quick
@given(st.text())
def test_tokenizer_accepts_any_text(text):
    tokens = clip_tokenizer().encode(text)
    assert all(0 <= token < 49406 for token in tokens)


counts = st.lists(st.integers(1, 30), min_size=1, max_size=8)


@quick
@given(counts, st.integers(1, 20), st.integers(0, 2**40))
def test_few_shot_samples_have_the_right_size_and_are_reproducible(counts, shots, seed):
    train = [Item(f"{label}/{number}.jpg", label) for label, count in enumerate(counts) for number in range(count)]
    val = [Item(f"val/{item.path}", item.label) for item in train]
    drawn, drawn_val = sample_few_shot(train, val, shots, seed)
    assert (drawn, drawn_val) == sample_few_shot(train, val, shots, seed)
    for some, source, most in ((drawn, train, shots), (drawn_val, val, min(shots, 4))):
        assert len(set(some)) == len(some)
        assert set(some) <= set(source)
        for label, count in enumerate(counts):
            assert sum(item.label == label for item in some) == min(most, count)
    # Selecting classes after sampling does not change the samples of the others.
    assert [item.label for item in drawn] == sorted(item.label for item in drawn)


@quick
@given(st.integers(4, 500))
def test_base_and_new_are_the_halves_of_all(count):
    base, new = (list(chosen_labels(count, which)) for which in ("base", "new"))
    assert base + new == list(chosen_labels(count, "all")) == list(range(count))
    assert len(base) - len(new) in (0, 1)


words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20).filter(lambda w: w.strip())


@quick
@given(st.lists(words, min_size=2, max_size=5, unique_by=lambda word: word.strip().casefold().replace("_", " ")))
def test_any_class_names_can_be_read_from_a_manifest(classes):
    with TemporaryDirectory() as directory:
        path = Path(directory) / "list.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "class", "split"])
            for number, name in enumerate(classes):
                for split in ("train", "test"):
                    writer.writerow([f"{split}/{number}.jpg", name, split])
        lines = [
            json.dumps({"path": f"{split}/{number}.jpg", "class": name, "split": split})
            for number, name in enumerate(classes)
            for split in ("train", "test")
        ]
        (Path(directory) / "list.jsonl").write_text("\n".join(lines), encoding="utf-8")
        message, data = try_call(lambda: load_data(path))
        if message is not None:
            assert len(message) > 10
            return
        assert len(data.classnames) == len(classes)
        assert load_data(Path(directory) / "list.jsonl").classnames == data.classnames
        assert {item.path for item in data.train} == {f"train/{number}.jpg" for number in range(len(classes))}


WHOLE = ["epochs", "batch_size", "warmup_epochs", "seed"]
REAL = ["learning_rate", "warmup_learning_rate", "momentum", "weight_decay"]
setting = st.one_of(
    st.tuples(st.sampled_from(WHOLE), st.integers()), st.tuples(st.sampled_from(REAL), st.floats() | st.integers())
)


@quick
@given(setting)
def test_any_setting_is_accepted_or_refused_by_name(setting):
    field, value = setting
    message, config = try_call(lambda: TrainConfig(**{field: value}))
    if message is not None:
        assert f"`{field}`" in message
    elif config.epochs < 1000:
        rates = [config.learning_rate_at(epoch) for epoch in range(1, config.epochs + 1)]
        assert all(rate > 0 and math.isfinite(rate) for rate in rates)
        tail = rates[config.warmup_epochs :]
        assert tail == sorted(tail, reverse=True)


@quick
@given(st.text(max_size=12))
def test_parse_bytes_returns_bytes_or_refuses(text):
    message, size = try_call(lambda: parse_bytes("memory_budget", text))
    assert size >= 0 if message is None else "`memory_budget`" in message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=8).filter(lambda key: key != "checksum"), json_values, max_size=5)


@quick
@given(objects, st.lists(objects, max_size=3), st.booleans())
def test_any_record_is_read_as_written(content, rows, with_checksum):
    with TemporaryDirectory() as directory:
        write_json(Path(directory) / "a.json", content, with_checksum=with_checksum)
        assert read_json(Path(directory) / "a.json") == content
        write_json_lines(Path(directory) / "b.jsonl", rows)
        assert read_json_lines(Path(directory) / "b.jsonl") == rows


def places(node):
    """Return container and key of every value in plain JSON."""
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from places(node[key])


def edited(content, data):
    """Return plain JSON with one value replaced or removed."""
    copied = json.loads(json.dumps(content))
    container, key = data.draw(st.sampled_from(list(places(copied))))
    if data.draw(st.booleans()):
        container[key] = data.draw(json_values)
    else:
        del container[key]
    return copied


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved")
    CoCoOp(BACKBONE, WORDS[:3], context="a photo of a", seed=1).save_pretrained(directory)
    return directory


@quick
@given(st.data())
def test_edited_config_is_refused_or_loaded_as_edited(saved, data):
    whole = read_json(saved / "config.json")
    changed = edited(whole, data)
    with TemporaryDirectory() as directory:
        (Path(directory) / "prompt.safetensors").write_bytes((saved / "prompt.safetensors").read_bytes())
        (Path(directory) / "config.json").write_text(json.dumps(changed), encoding="utf-8")
        message, method = try_call(lambda: from_pretrained(directory, backbone=BACKBONE))
    if message is None:
        assert list(method.classnames) == changed["classnames"]
        assert torch.equal(method.context, from_pretrained(saved, backbone=BACKBONE).context)
    else:
        assert "config.json" in message or "prompt.safetensors" in message


@quick
@given(st.data())
def test_edited_record_is_refused_or_reported(data):
    changed = edited(record("cocoop", {"base": 80, "new": 60}), data)
    with TemporaryDirectory() as directory:
        message, sweep = try_call(lambda: read_sweep(write_sweep(Path(directory), [changed])))
    if message is None:
        assert sweep.records == [changed]
        tables = sweep_tables(sweep, "match")
        assert sweep_csv(tables)
        assert sweep_markdown(tables, failure_table(sweep))
    else:
        assert "record.json" in message


answers = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.floats(0, 1)), min_size=1, max_size=40)


@quick
@given(answers)
def test_metrics_match_scikit_learn(answers):
    labels, predicted, confidences = map(tuple, zip(*answers, strict=True))
    found = Evaluation(tuple("abcde"), labels, predicted, confidences, tuple(map(str, range(len(labels)))))
    assert found.accuracy == pytest.approx(100 * accuracy_score(labels, predicted))
    present = sorted(set(labels))
    expected = f1_score(labels, predicted, labels=present, average="macro", zero_division=0)
    assert found.macro_f1 == pytest.approx(100 * expected)
    assert 0 <= found.ece <= 100 + 1e-9
    assert sum(images for images, _, _ in found.reliability) == len(labels)
    assert sum(count for *_, count in found.confusions) == sum(a != b for a, b in zip(labels, predicted, strict=True))


@quick
@given(st.floats(0, 100), st.floats(0, 100))
def test_harmonic_mean_lies_between_its_arguments(base, new):
    h = harmonic_mean(base, new)
    assert min(base, new) - 1e-9 <= h <= (base + new) / 2 + 1e-9


class Tags(HTMLParser):
    """Collect all elements and all text."""

    def __init__(self):
        super().__init__()
        self.tags, self.text = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, len(attributes)))

    def handle_data(self, data):
        self.text.append(data)


@slow
@given(
    st.sampled_from(
        ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</title><b>", '"><svg onload=x>', "&lt;b&gt;"]
    )
)
def test_markup_in_names_is_escaped_in_pages(name):
    def page(word):
        record = {
            "cocoop": "1",
            "run": word,
            "method": "coop",
            "backbone": word,
            "context": [{"position": 1, "classname": word, "norm": 1.0, "words": [{"text": word, "distance": 0.5}]}],
            "word_distance": 0.3,
        }
        tags = Tags()
        tags.feed(explanation_page(record))
        return tags

    plain, marked = page("plain"), page(name)
    assert [tag for tag, _ in marked.tags] == [tag for tag, _ in plain.tags]
    assert any(name in text for text in marked.text)

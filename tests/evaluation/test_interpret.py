"""Words, shifts and controls of a prompt against plain arithmetic; `cocoop explain` and its page."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made_images import cocoop, make_images
from pages import Page
from reference import conditional_logits, static_logits
from tiny_backbone import make_tiny_backbone
from tiny_models import save_transformers

import cocoop as package
from cocoop.cli.explain import ExplainCommand
from cocoop.errors import CocoopError, ConfigError, DataError
from cocoop.evaluation.interpret import _derangement, control_study, nearest_words, prompt_shifts, word_distance
from cocoop.methods import CoCoOp, CoOp, ZeroShot
from cocoop.report.explain_page import control_rows, explanation_page
from cocoop.training.features import Features

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ["cherry", "leaf", "sea", "sun"]


@pytest.fixture
def features(tiny_backbone):
    """Features of 24 images: a direction for each class, and noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(24) % 4
    directions = torch.randn(4, tiny_backbone.embed_dim, generator=generator)
    x = 3 * directions[labels] + torch.randn(24, tiny_backbone.embed_dim, generator=generator)
    return Features(x, labels, tuple(NAMES), tuple(f"{i}.png" for i in range(24)))


@pytest.fixture
def method(tiny_backbone):
    """A CoCoOp whose shifts are as long as the context, and differ."""
    method = CoCoOp(tiny_backbone, NAMES, seed=1)
    with torch.no_grad():
        method.meta_net.linear1.weight *= 8
        method.meta_net.linear2.weight *= 8
    return method


def test_untrained_context_words_are_nearest_to_themselves(tiny_backbone):
    found = nearest_words(CoCoOp(tiny_backbone, NAMES, "a photo of a"), 3)
    assert [(v.position, v.classname) for v in found] == [(1, None), (2, None), (3, None), (4, None)]
    assert [v.words[0].text for v in found] == ["a", "photo", "of", "a"]
    assert [v.words[0].distance for v in found] == [0.0] * 4
    assert all(0 < v.words[1].distance <= v.words[2].distance for v in found)
    assert [v.words[0].token for v in found] == tiny_backbone.tokenizer.encode("a photo of a")


def test_word_parts_end_with_a_dash(tiny_backbone):
    found = nearest_words(CoOp(tiny_backbone, NAMES, "bioluminescent e"), 1)
    assert [v.words[0].text for v in found] == ["bi-", "olu-", "min-", "esc-", "ent", "e"]


def test_nearest_words_have_the_smallest_euclidean_distances(tiny_backbone):
    method = CoOp(tiny_backbone, NAMES, context_length=3, seed=1)
    table = tiny_backbone.text_tower.token_embedding.weight.numpy().astype(np.float64)
    for vector, found in zip(method.context.detach().numpy(), nearest_words(method, 6), strict=True):
        distances = np.sqrt(((table - vector) ** 2).sum(1))
        order = [i for i in distances.argsort() if i not in (49406, 49407)][:6]
        assert [word.token for word in found.words] == order
        np.testing.assert_allclose([word.distance for word in found.words], distances[order], rtol=1e-5)
        assert found.norm == pytest.approx(np.linalg.norm(vector), rel=1e-5)


def test_class_specific_contexts_have_class_names(tiny_backbone):
    method = CoOp(tiny_backbone, NAMES, context_length=2, class_specific=True, seed=1)
    method.set_classes(["sun", "leaf"])
    found = nearest_words(method, 1)
    assert [(v.classname, v.position) for v in found] == [(name, position) for name in NAMES for position in (1, 2)]
    norms = method.context.detach().norm(dim=-1).flatten()
    np.testing.assert_allclose([v.norm for v in found], norms, rtol=1e-6)


def test_rows_of_zeros_are_not_words():
    backbone = make_tiny_backbone(seed=3)
    table = backbone.text_tower.token_embedding.weight.data
    cat, dog = backbone.tokenizer.encode("cat dog")
    table[:49406] = 0
    table[cat] = 1
    table[dog] = -1
    method = CoOp(backbone, NAMES, context_length=2, seed=1)
    with torch.no_grad():
        method.context[0] = table[backbone.tokenizer.sos]
    for vector in nearest_words(method, 5):
        assert {word.text for word in vector.words} == {"cat", "dog"}
    assert word_distance(backbone) == pytest.approx(2 * 32**0.5)


def test_control_characters_are_escaped(tiny_backbone):
    method = CoOp(tiny_backbone, NAMES, "a")
    escape = next(i for i in range(600) if tiny_backbone.tokenizer.decode([i]).strip(" ") == "\x1b")
    with torch.no_grad():
        method.context[0] = tiny_backbone.text_tower.token_embedding.weight[escape]
    assert nearest_words(method, 1)[0].words[0].text in ("\\x1b", "\\x1b-")


def test_word_distance_is_the_median_to_the_nearest_other_word(tiny_backbone):
    table = tiny_backbone.text_tower.token_embedding.weight[:49406]
    rows = torch.randperm(49406, generator=torch.Generator().manual_seed(0))[:256]
    nearest = [(table - table[row]).norm(dim=1).topk(2, largest=False).values[1] for row in rows]
    assert word_distance(tiny_backbone) == pytest.approx(float(torch.stack(nearest).median()), rel=1e-4)


def test_hugging_face_tokenizer_gives_the_same_words(tmp_path):
    save_transformers(tmp_path)
    backbone = package.load_backbone(f"local-dir:{tmp_path}")
    words = "a photo of a bioluminescent cat"
    found = nearest_words(CoCoOp(backbone, NAMES, words), 1)
    assert [v.words[0].distance for v in found] == [0.0] * len(found)
    tokenizer = make_tiny_backbone().tokenizer
    assert [v.words[0].text for v in found] == [tokenizer.piece(token) for token in tokenizer.encode(words)]
    assert "".join(backbone.tokenizer.decode(tokenizer.encode(words)).split()) == words.replace(" ", "")


def test_nearest_words_needs_a_learned_context(tiny_backbone):
    with pytest.raises(ConfigError, match="The method zero-shot has no learned context; use a run of coop or coco"):
        nearest_words(ZeroShot(tiny_backbone, NAMES))
    with pytest.raises(ConfigError, match="`count` is 0; it must be at least 1"):
        nearest_words(CoOp(tiny_backbone, NAMES), 0)


def test_prompt_shifts_match_their_definitions(method, features):
    found = prompt_shifts(method, features)
    with torch.no_grad():
        pi = np.stack([method.meta_net(F.normalize(x, dim=0)[None])[0].numpy() for x in features.features]).astype(
            float
        )
    labels, norms = features.labels.numpy(), np.linalg.norm(pi, axis=1)
    mean = pi.mean(0)
    total = ((pi - mean) ** 2).sum()
    between = sum(((pi[labels == c].mean(0) - mean) ** 2).sum() * (labels == c).sum() for c in range(4))
    within = sum(((pi[labels == c] - pi[labels == c].mean(0)) ** 2).sum() for c in range(4))
    assert found.images == 24
    assert found.context_norm == pytest.approx(float(method.context.detach().norm(dim=1).mean()))
    assert (found.norm_mean, found.norm_std) == pytest.approx((norms.mean(), norms.std(ddof=1)), rel=1e-5)
    assert found.constant == pytest.approx(np.linalg.norm(mean), rel=1e-5)
    assert found.spread == pytest.approx(np.sqrt(total / 24), rel=1e-5)
    assert found.between_classes == pytest.approx(between / total, rel=1e-5)
    assert found.record()["within_classes"] == pytest.approx(within / total, rel=1e-5)
    assert 0.1 < found.between_classes < 0.99

    values, vectors = np.linalg.eigh(np.cov(pi.T, bias=True))
    np.testing.assert_allclose(found.explained, values[::-1][:2] / values.sum(), rtol=1e-5)
    projected = (pi - mean) @ vectors[:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(found.components), np.abs(projected), atol=1e-5)


def test_constant_shifts_have_no_spread(method, features):
    with torch.no_grad():
        method.meta_net.linear2.weight.zero_()
    found = prompt_shifts(method, features)
    assert (found.spread, found.norm_std, found.explained) == (0, pytest.approx(0, abs=1e-12), (0, 0))
    assert (found.between_classes, found.record()["within_classes"]) == (None, None)
    assert found.constant == pytest.approx(float(method.meta_net.linear2.bias.detach().norm()))


def test_controls_change_nothing_if_the_shift_is_constant(method, features):
    with torch.no_grad():
        method.meta_net.linear2.weight.zero_()
    true, *others = control_study(method, features, seeds=3)
    assert true.accuracies == (pytest.approx(package.evaluate(method, features).accuracy),)
    assert [c.name for c in others] == ["noise", "other", "mean"]
    for control in others:
        assert set(control.accuracies) == set(true.accuracies)
        assert set(control.changed) == {0.0}
        assert (control.loss, control.standard_error) == (0, 0)
    rows = control_rows({"control": [asdict(c) for c in (true, *others)]})
    assert [row[2:] for row in rows[1:]] == [["0.0 ± 0.0", "no", "0.0 ± 0.0"]] * 2 + [["0.0 ± 0.0", "no", "0.0"]]


def test_controls_match_the_published_function_of_another_input(method, features):
    """Image by image through the plain oracle, with the shift of something else."""
    true, noise, other, mean = control_study(method, features, seeds=2)
    assert [len(c.accuracies) for c in (true, noise, other, mean)] == [1, 2, 2, 1]
    labels, unit = features.labels, F.normalize(features.features, dim=-1)

    def with_input(inputs):
        with torch.no_grad():
            rows = [
                static_logits(method.backbone, NAMES, x[None], method.context + method.meta_net(z[None]))
                for x, z in zip(unit, inputs, strict=True)
            ]
        return torch.cat(rows).argmax(1)

    with torch.no_grad():
        expected = conditional_logits(method.backbone, NAMES, unit, method.context, method.meta_net).argmax(1)
    assert true.accuracies[0] == pytest.approx(100 * float((expected == labels).float().mean()))
    average = F.normalize(unit.mean(0), dim=0).expand_as(unit)
    swapped = unit[_derangement(24, 1)]
    for control, seed, inputs in ((mean, 0, average), (other, 1, swapped)):
        answers = with_input(inputs)
        assert control.accuracies[seed] == pytest.approx(100 * float((answers == labels).float().mean()))
        assert control.changed[seed] == pytest.approx(100 * float((answers != expected).float().mean()))
    answers = with_input(average)
    better = (expected == labels).double() - (answers == labels).double()
    assert mean.loss == pytest.approx(100 * float(better.mean()))
    assert mean.standard_error == pytest.approx(100 * float(better.std()) / 24**0.5)
    assert max(*noise.changed, *other.changed) > 0, "the control of this test must do something"
    assert control_study(method, features, seeds=2) == (true, noise, other, mean)


@pytest.mark.parametrize("count", [2, 3, 17])
def test_derangement_has_no_fixed_points(count):
    found = {tuple(_derangement(count, seed).tolist()) for seed in range(20)}
    for order in found:
        assert sorted(order) == list(range(count))
        assert all(place != other for place, other in enumerate(order))
    assert len(found) > 1 or count == 2


@pytest.mark.parametrize(
    ("loss", "change", "significant"),
    [(2.1, "\N{MINUS SIGN}2.1 ± 1.0", "yes"), (-2.1, "+2.1 ± 1.0", "yes"), (1.9, "\N{MINUS SIGN}1.9 ± 1.0", "no")],
)
def test_a_change_is_significant_beyond_two_standard_errors(loss, change, significant):
    true, noise = ({"accuracies": [50.0], "changed": [5.0], "loss": x, "standard_error": 1.0} for x in (0.0, loss))
    rows = control_rows({"control": [{"name": "true", **true}, {"name": "noise", **noise}]})
    assert rows == [["the image itself", "50.0", "", "", ""], ["noise", "50.0", change, significant, "5.0"]]


def test_one_image_or_other_classes_are_refused(method, features):
    one = Features(features.features[:1], features.labels[:1], tuple(NAMES), ("0.png",))
    for study in (prompt_shifts, control_study):
        with pytest.raises(DataError, match="There is 1 image; at least two are needed"):
            study(method, one)
    method.set_classes(["a", "b"])
    with pytest.raises(DataError, match=r"call method\.set_classes\(data\.classnames\) first"):
        control_study(method, features)


NASTY = """<img src="http://evil.example/x.png"/> & 'Co' $1 _"""


def test_the_page_shows_many_classes_with_any_names(method):
    generator = torch.Generator().manual_seed(1)
    names = [NASTY, "_private", *(f"class {i}" for i in range(20))]
    labels = torch.arange(66) % 22
    x = torch.randn(66, method.backbone.embed_dim, generator=generator)
    features = Features(x, labels, tuple(names), tuple(map(str, range(66))))
    method.set_classes(names)
    shifts, study = prompt_shifts(method, features), control_study(method, features, seeds=2)
    record = {
        "cocoop": "0",
        "run": "runs/<b>",
        "method": "cocoop",
        "backbone": "tiny",
        "data": "photos",
        "context": [asdict(vector) for vector in nearest_words(method, 2)],
        "word_distance": 0.5,
        "shifts": shifts.record(),
        "control": [asdict(c) for c in study],
    }
    # The page is made from what explain.json holds.
    page = Page(explanation_page(json.loads(json.dumps(record))))
    assert page.fetched() == []
    assert page.broken_links() == []
    assert "runs/<b>: cocoop on tiny, with 66 images of photos." in page.words()
    words, controls = page.tables()
    assert words[1][:3] == ["1", f"{record['context'][0]['norm']:.2f}", "a 0.000"]
    assert [row[0] for row in controls[1:]] == [
        "the image itself",
        "noise",
        "another image",
        "the mean of all images",
    ]
    assert controls[1][1] == f"{study[0].accuracies[0]:.1f}"
    texts = [page.words(text).strip("\u200b") for text in page.all("text")]
    assert {"_private", "class 0", "7 more classes"} <= set(texts)
    assert any(text.startswith("<img") for text in texts)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    make_images(home / "photos", per_class=3)
    backbone = package.load_backbone("lite")
    CoCoOp(backbone, ["one", "two"], seed=1).save_pretrained(home / "cocoop")
    CoOp(backbone, ["one", "two"], "a photo of a").save_pretrained(home / "coop")
    ZeroShot(backbone, ["one", "two"]).save_pretrained(home / "zero")
    return home


def test_explain_prints_and_writes_everything(home):
    done = cocoop("explain", "cocoop", "photos", "--all-images", "--seeds", "2", "--words", "3", cwd=home)
    assert done.returncode == 0, done.stderr
    record = json.loads((home / "cocoop" / "explain" / "explain.json").read_text())
    assert [v["words"][0]["text"] for v in record["context"]] == ["a", "photo", "of", "a"]
    assert [v["words"][0]["distance"] for v in record["context"]] == [0.0] * 4
    assert record["word_distance"] > 0.1
    assert (record["data"], record["shifts"]["images"], record["shifts"]["classnames"]) == ("photos", 12, NAMES)
    data = package.load_data(home / "photos").all_for_testing()
    method = package.from_pretrained(home / "cocoop")
    method.set_classes(NAMES)
    result = package.evaluate(method, data, workers=0)
    assert record["control"][0]["accuracies"] == [pytest.approx(result.accuracy)]
    assert [len(c["accuracies"]) for c in record["control"]] == [1, 2, 2, 1]
    for words in ("photo 0.000", "Control on 12 images", "the mean of all images", f"{result.accuracy:.1f}"):
        assert words in done.stdout
    page = Page((home / "cocoop" / "explain" / "explain.html").read_text())
    assert page.fetched() == []
    assert len(page.tables()) == 2
    assert "Written: cocoop/explain/explain.json, cocoop/explain/explain.html." in done.stderr


def test_explain_without_images_shows_words_only(home):
    done = cocoop("explain", "coop", "--output", "out", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "control" not in json.loads((home / "out" / "explain.json").read_text())
    page = Page((home / "out" / "explain.html").read_text())
    assert (len(page.tables()), len(page.all("section"))) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"source": "coop", "data": "photos"},
            "'coop' uses coop, whose prompt does not depend on images; omit `data`",
        ),
        ({"source": "zero"}, "The method zero-shot has no learned context; use a run of coop or cocoop."),
        ({"source": "nowhere"}, "There is no directory 'nowhere'"),
        ({"source": "cocoop", "data": "photos", "seeds": 0}, "`seeds` is 0; it must be at least 1."),
    ],
)
def test_explain_refuses_invalid_arguments(arguments, message, home, monkeypatch):
    monkeypatch.chdir(home)
    paths = {name: Path(value) for name, value in arguments.items() if name == "data"}
    with pytest.raises(CocoopError, match=message):
        ExplainCommand(**(arguments | paths)).run()
    assert not (home / "coop" / "explain").exists()

"""The papers' experiments as lists of runs: training data, settings and tests."""

import dataclasses
import json
import shutil

import pytest
import torch
from made_images import COLOURS, make_images

from cocoop.data import Dataset, Item, load_data
from cocoop.data.merge import merge
from cocoop.errors import ConfigError, DataError, PromptError
from cocoop.experiments.plans import (
    Grid,
    base_to_new,
    cross_dataset,
    domain,
    few_shot,
    leave_one_out,
    together,
)
from cocoop.experiments.presets import settings_for
from cocoop.experiments.sweep import sweep
from cocoop.experiments.trial import run_trial
from cocoop.methods import CoOp

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("photos") / "made", per_class=10)


@pytest.fixture(scope="module")
def data(images):
    return load_data(images)


def records(directory):
    return [json.loads(path.read_text()) for path in sorted(directory.glob("runs/*/record.json"))]


def quick(*methods, **more):
    lists = {"shots": [2], "seeds": [1], "preset": "cached", "changes": {"epochs": 2, "warmup_epochs": 0}}
    return Grid(methods=methods, **(lists | more))


@pytest.mark.parametrize(
    ("protocol", "method", "data", "shots", "epochs", "batch", "context"),
    [
        ("base-to-new", "cocoop", "dtd", 16, 10, 1, "a photo of a"),
        ("base-to-new", "coop", "dtd", 16, 200, 32, "a photo of a"),
        ("base-to-new", "coop", "ImageNet", 16, 50, 32, "a photo of a"),
        ("domain", "coop", "imagenet", 16, 50, 32, "a photo of a"),
        ("few-shot", "coop", "dtd", 1, 50, 32, 16),
        ("few-shot", "coop", "dtd", 2, 100, 32, 16),
        ("few-shot", "coop", "dtd", 4, 100, 32, 16),
        ("few-shot", "coop", "dtd", 8, 200, 32, 16),
        ("few-shot", "coop", "dtd", 16, 200, 32, 16),
        ("few-shot", "coop", "imagenet", 16, 50, 32, 16),
    ],
)
def test_settings_are_the_published_ones(protocol, method, data, shots, epochs, batch, context):
    settings = settings_for(protocol, method, data=data, shots=shots, seed=2)
    words, length = (context, None) if isinstance(context, str) else (None, context)
    assert (settings.method["context"], settings.method.get("context_length")) == (words, length)
    train = settings.train
    assert (train.epochs, train.batch_size, train.seed, train.cache_features) == (epochs, batch, 2, False)
    assert (train.learning_rate, train.momentum, train.weight_decay, train.warmup_epochs) == (0.002, 0.9, 5e-4, 1)
    assert settings.changes == {}
    cached = settings_for(protocol, method, data=data, shots=shots, seed=2, preset="cached")
    assert cached == dataclasses.replace(settings, train=dataclasses.replace(train, cache_features=True))


def test_changes_are_recorded_where_they_change_something():
    given = {"epochs": 10, "learning_rate": 0.02, "context": ""}
    settings = settings_for("base-to-new", "cocoop", data="dtd", shots=16, seed=1, changes=given)
    assert settings.changes == {"learning_rate": 0.02, "context": ""}
    assert settings.method["context"] is None
    words = settings_for("few-shot", "coop", data="dtd", shots=16, seed=1, changes={"context": "a photo of a"})
    assert (words.method["context"], words.method.get("context_length")) == ("a photo of a", None)
    assert settings_for("few-shot", "zero-shot", data="dtd", shots=16, seed=1, changes=given).changes == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 3}, "There is no setting 'epoch' to change; choose one of context, context_length, epochs"),
        ({"epochs": 0}, "`epochs` is 0; it must be at least 1."),
        ({"context_length": 8}, '`context_length` needs a random start; add `context=""`.'),
    ],
)
def test_invalid_changes_are_refused(changes, message, data):
    with pytest.raises(ConfigError) as error:
        base_to_new(data, Grid(changes=changes))
    assert message in str(error.value)


def test_zero_shot_runs_once(data):
    runs = few_shot(data, Grid(shots=[1, 2], seeds=[1, 2, 3]))
    assert [(run.method, run.shots, run.seed) for run in runs if run.method != "coop"] == [
        ("zero-shot", None, None),
        *(("cocoop", shots, seed) for shots in (1, 2) for seed in (1, 2, 3)),
    ]
    assert len({run.key("model", "photos") for run in runs}) == len(runs) == 13


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"seeds": []}, "`seeds` is []; give one or more values, each once."),
        ({"seeds": [1, 1]}, "`seeds` is [1, 1]; give one or more values, each once."),
        ({"seeds": [-1]}, "`seeds` is -1; it must be at least 0."),
        ({"methods": ["kgcoop"]}, "There is no method 'kgcoop'; choose one of zero-shot, coop, cocoop."),
        ({"shots": [0]}, "`shots` is 0; it must be at least 1."),
    ],
)
def test_invalid_lists_are_refused(lists, message, data):
    with pytest.raises(ConfigError) as error:
        base_to_new(data, Grid(**lists))
    assert str(error.value) == message


def test_base_to_new_samples_all_classes_and_tests_each_half_among_its_own(data, tiny_backbone, tmp_path):
    (run,) = base_to_new(data, quick("coop"))
    assert run.sampled == data.few_shot(2, seed=1).base()
    sweep(tmp_path, [run], tiny_backbone, workers=0)
    (record,) = records(tmp_path)
    names = sorted(COLOURS)
    assert {name: list(test["per_class"]) for name, test in record["tests"].items()} == {
        "base": names[:2],
        "new": names[2:],
    }
    assert [test["classes"] for test in record["tests"].values()] == [2, 2]
    base, new = (record["tests"][name]["accuracy"] for name in ("base", "new"))
    assert record["harmonic_mean"] == pytest.approx(2 * base * new / (base + new))
    assert (record["train_images"], record["classes"], len(record["history"])) == (4, 2, 2)
    # The same numbers as without a sweep.
    prompt = CoOp(tiny_backbone, names[:2], context="a photo of a", seed=1)
    by_hand = run_trial(tiny_backbone, "coop", run.sampled, {}, run.settings.train, settings=run.settings.method)
    assert not torch.equal(by_hand.method.context, prompt.context)
    assert record["history"][-1]["loss"] == by_hand.history[-1]["loss"]


def test_together_classifies_among_all_classes(data, tiny_backbone, tmp_path):
    sweep(tmp_path, together(data, quick("zero-shot", "cocoop")), tiny_backbone, workers=0)
    found = records(tmp_path)
    assert sorted(record["method"] for record in found) == ["cocoop", "zero-shot"]
    for record in found:
        tests = record["tests"]
        assert [tests[name]["classes"] for name in ("base", "new", "all")] == [4, 4, 4]
        assert [list(tests[name]["per_class"]) for name in ("base", "new")] == [
            sorted(COLOURS)[:2],
            sorted(COLOURS)[2:],
        ]
        images = [tests[name]["images"] for name in ("base", "new", "all")]
        assert images[0] + images[1] == images[2] == len(data.test)
        right = [tests[name]["accuracy"] * n for name, n in zip(("base", "new", "all"), images, strict=True)]
        assert right[0] + right[1] == pytest.approx(right[2])


def test_a_target_can_have_some_of_the_classes_in_another_order(data, tiny_backbone, tmp_path):
    some = [data.classnames[3], data.classnames[0]]
    items = [Item(item.path, some.index(data.classnames[item.label])) for item in data.test if item.label in (3, 0)]
    target = Dataset(tuple(some), (), (), tuple(items), data.image_root, "sketches")
    sweep(tmp_path, domain(data, [target], quick("cocoop")), tiny_backbone, workers=0)
    (record,) = records(tmp_path)
    assert list(record["tests"]) == ["source", "sketches"]
    assert (record["tests"]["sketches"]["classes"], list(record["tests"]["sketches"]["per_class"])) == (2, some)
    # The same images among the same two classes in the other order give the same accuracy for each class.
    turned = Dataset(
        tuple(reversed(some)), (), (), tuple(Item(i.path, 1 - i.label) for i in items), data.image_root, "turned"
    )
    sweep(tmp_path / "turned", domain(data, [turned], quick("cocoop")), tiny_backbone, workers=0)
    (again,) = records(tmp_path / "turned")
    assert again["tests"]["turned"]["per_class"] == record["tests"]["sketches"]["per_class"]


def test_a_domain_of_other_classes_is_refused(data):
    other = dataclasses.replace(data, classnames=("Cherry", "leaf", "sea", "moon"), name="nights")
    with pytest.raises(DataError) as error:
        domain(data, [other])
    assert str(error.value) == (
        "'nights' has classes that 'made' does not have (1): 'moon'. Domains have the same classes in other styles; "
        "for other classes use the cross-dataset experiment."
    )
    assert len(cross_dataset(data, [other], Grid(seeds=[1]))) == 3


def test_targets_need_different_names(data):
    other = dataclasses.replace(data, name="other")
    with pytest.raises(DataError, match=r"Several targets are named 'other'; give each once, or rename its directory"):
        cross_dataset(data, [other, other])
    with pytest.raises(DataError, match=r"There is no target for 'made'; give one or more in `targets`"):
        cross_dataset(data, [])


def test_each_domain_is_left_out_once_and_never_trained_on(tmp_path):
    names = ["ink", "oil", "wax"]
    domains = [load_data(make_images(tmp_path / name, per_class=10, seed=seed)) for seed, name in enumerate(names)]
    runs = leave_one_out(domains, Grid(methods=["coop"], seeds=[1]), all_images=True)
    assert [(run.data.name, run.tests[1].name) for run in runs] == [
        ("oil+wax", "ink"),
        ("ink+wax", "oil"),
        ("ink+oil", "wax"),
    ]
    for run, left_out in zip(runs, domains, strict=True):
        learned = {run.sampled.path_of(item) for item in run.sampled.train}
        # At most 16 images per class from both domains together, limited by what they have.
        assert len(learned) == 40
        measured = {run.tests[1].data.path_of(item) for item in run.tests[1].data.test}
        assert measured == {path.absolute() for path in left_out.image_root.glob("*/*.png")}
        assert not learned & measured
    with pytest.raises(DataError, match="needs three or more domains; there are 2"):
        leave_one_out(domains[:2])
    with pytest.raises(DataError, match="Several domains are named 'ink'; give each once"):
        leave_one_out([*domains, domains[0]])


def test_domains_of_manifests_can_lie_anywhere(tmp_path):
    domains = []
    for seed, name in enumerate(("ink", "oil", "wax")):
        images = make_images(tmp_path / "disk" / name, per_class=4, seed=seed)
        manifest = tmp_path / "lists" / f"{name}.csv"
        manifest.parent.mkdir(exist_ok=True)
        lines = [f"{image},{image.parent.name},train" for image in sorted(images.glob("*/*.png"))]
        manifest.write_text("\n".join(["path,class,split", *lines]))
        domains.append(load_data(manifest))
    runs = leave_one_out(domains, Grid(methods=["coop"], shots=[2], seeds=[1]), all_images=True)
    assert [run.data.name for run in runs] == ["oil+wax", "ink+wax", "ink+oil"]
    for run in runs:
        run.tests[1].data.check_files()
        run.sampled.check_files(["train"])


def test_merging_matches_classes_by_name(images, tmp_path):
    other = make_images(tmp_path / "other", per_class=3, classes=("sun", "cherry"), seed=5)
    some = Dataset(("Sun", "cherry"), (Item("sun/00.png", 0), Item("cherry/01.png", 1)), (), (), other, "other")
    first = Dataset(("cherry", "sun"), (Item("cherry/00.png", 0), Item("sun/00.png", 1)), (), (), images, "first")
    both = merge([first, some])
    assert (both.classnames, both.name) == (("cherry", "sun"), "first+other")
    labels = [(both.path_of(item).resolve(), item.label) for item in both.train]
    assert labels == [
        ((images / "cherry/00.png").resolve(), 0),
        ((images / "sun/00.png").resolve(), 1),
        ((other / "sun/00.png").resolve(), 1),
        ((other / "cherry/01.png").resolve(), 0),
    ]
    with pytest.raises(DataError, match=r"'first' and 'other' have different classes \('moon', 'sun'\)"):
        merge([first, dataclasses.replace(some, classnames=("moon", "cherry"))])


def test_training_images_are_not_measured(images, tiny_backbone, tmp_path):
    mine = shutil.copytree(images, tmp_path / "made")
    data = load_data(mine)
    (plain,) = few_shot(data, quick("coop"))
    learned = plain.sampled.train[0]
    # The same bytes under another name, among the test images.
    copy = next(item for item in data.test if item.label == learned.label)
    shutil.copy(data.path_of(learned), data.path_of(copy))
    runs = few_shot(data, quick("zero-shot", "coop"))
    sweep(tmp_path / "sweep", runs, tiny_backbone, workers=0)
    coop, zero_shot = records(tmp_path / "sweep")
    assert (coop["method"], coop["tests"]["test"]["overlap"]) == ("coop", 1)
    assert coop["tests"]["test"]["images"] == len(data.test) - 1
    # Zero-shot is not trained on any image.
    assert (zero_shot["tests"]["test"]["overlap"], zero_shot["tests"]["test"]["images"]) == (0, len(data.test))


def test_data_sets_of_the_same_name_are_told_apart(tmp_path, tiny_backbone):
    grid = quick("coop", shots=[2])
    places = [load_data(make_images(tmp_path / place / "same", per_class=10, seed=i)) for i, place in enumerate("ab")]
    for data in places:
        assert sweep(tmp_path / "sweep", few_shot(data, grid), tiny_backbone, workers=0)["done"] == 1
    one, other = records(tmp_path / "sweep")
    assert one["split_sha256"] == other["split_sha256"]
    assert one["key"] != other["key"]
    assert one["history"] != other["history"]
    both = [run for data in places for run in few_shot(data, grid)]
    with pytest.raises(DataError, match="Several data sets are named 'same'; give each once, or rename"):
        sweep(tmp_path / "sweep", both, tiny_backbone)


def test_a_repaired_image_is_trained_on_and_measured(tmp_path, tiny_backbone):
    data = load_data(make_images(tmp_path / "photos", per_class=10))
    runs = few_shot(data, quick("coop", shots=[2]))
    broken = [data.path_of(runs[0].sampled.train[0]), data.path_of(data.test[0])]
    whole = [path.read_bytes() for path in broken]
    for path in broken:
        path.write_bytes(b"no photo")
    sweep(tmp_path / "sweep", runs, tiny_backbone, workers=0, skip_unreadable=True)
    (record,) = records(tmp_path / "sweep")
    assert (record["train_images"], record["train_skipped"], record["history"][0]["images"]) == (8, 1, 7)
    assert (record["tests"]["test"]["images"], record["tests"]["test"]["skipped"]) == (len(data.test) - 1, 1)
    # With the test image repaired, no run is trained again, and the record is completed.
    broken[1].write_bytes(whole[1])
    assert sweep(tmp_path / "sweep", runs, tiny_backbone, workers=0)["done"] == 1
    (again,) = records(tmp_path / "sweep")
    assert (again["tests"]["test"]["skipped"], again["history"]) == (0, record["history"])
    broken[0].write_bytes(whole[0])
    assert sweep(tmp_path / "sweep", runs, tiny_backbone, workers=0)["done"] == 1
    assert sorted(r["train_skipped"] for r in records(tmp_path / "sweep")) == [0, 1]


def test_another_target_is_measured_without_training_again(data, tiny_backbone, tmp_path):
    targets = [dataclasses.replace(data, name=name) for name in ("one", "two")]
    directory = tmp_path / "sweep"
    sweep(directory, cross_dataset(data, targets[:1], quick("cocoop")), tiny_backbone, workers=0)
    (weights,) = directory.glob("runs/*/training.safetensors")
    learned = weights.stat().st_mtime_ns
    for order in (targets[::-1], targets, targets[1:]):
        sweep(directory, cross_dataset(data, order, quick("cocoop")), tiny_backbone, workers=0)
        (record,) = records(directory)
        # Tests of earlier sweeps stay in the record.
        assert list(record["tests"]) == ["source", "one", "two"]
    assert weights.stat().st_mtime_ns == learned
    counts = sweep(directory, cross_dataset(data, targets[1:], quick("cocoop")), tiny_backbone, workers=0)
    assert counts == {"done": 0, "done before": 1, "failed": 0}


def test_a_context_that_is_too_long_is_refused_in_advance(data, tiny_backbone, tmp_path):
    runs = base_to_new(data, Grid(methods=["cocoop"], changes={"context": "word " * 90}))
    with pytest.raises(PromptError, match="77"):
        sweep(tmp_path / "sweep", runs, tiny_backbone)
    with pytest.raises(ConfigError, match="`workers` is -1; it must be at least 0"):
        sweep(tmp_path / "sweep", base_to_new(data), tiny_backbone, workers=-1)
    assert not (tmp_path / "sweep").exists()


def test_zero_shot_uses_the_template_of_each_target(data, tiny_backbone, tmp_path):
    plain = dataclasses.replace(data, name="plain")
    odd = dataclasses.replace(data, name="odd", template="nothing like {}, ever")
    sweep(tmp_path, cross_dataset(data, [plain, odd], Grid(methods=["zero-shot"])), tiny_backbone, workers=0)
    (record,) = records(tmp_path)
    source, same, other = (record["tests"][name]["reliability"] for name in ("source", "plain", "odd"))
    assert source == same != other
    assert record["tests"]["odd"]["template"] == "nothing like {}, ever"


def test_new_classes_without_test_images_are_refused_in_advance(data, tiny_backbone, tmp_path):
    half = dataclasses.replace(data, test=tuple(item for item in data.test if item.label < 2))
    with pytest.raises(DataError, match="'made' has no test images of new classes; mark some as 'test'"):
        sweep(tmp_path / "sweep", base_to_new(half), tiny_backbone)
    assert not (tmp_path / "sweep").exists()

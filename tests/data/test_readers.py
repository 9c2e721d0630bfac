"""Image directories, manifests and split files: accepted layouts, and the message for each mistake."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cocoop.data import Dataset, load_data
from cocoop.errors import DataError


def touch(root: Path, *paths: str) -> None:
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"not an image: loading must not open files")


def paths(data: Dataset, split: str) -> list[str]:
    return [item.path for item in getattr(data, split)]


# ---- image directories


def test_directory_without_splits_is_split_as_documented(tmp_path: Path) -> None:
    root = tmp_path / "my.photos"
    touch(root, *(f"hot_dog/{n:02}.jpg" for n in range(10)), *(f"ant/{n}.PNG" for n in range(10)))
    data = load_data(root)
    assert data.name == "my.photos"
    assert data.classnames == ("ant", "hot dog")
    assert data.image_root == root
    assert (len(data.train), len(data.val), len(data.test)) == (10, 4, 6)
    everything = paths(data, "train") + paths(data, "val") + paths(data, "test")
    assert len(set(everything)) == 20
    order = [f"hot_dog/{n:02}.jpg" for n in range(10)]
    random.Random(0).shuffle(order)
    assert {path for path in paths(data, "train") if path.startswith("hot")} == set(order[:5])
    assert {path for path in paths(data, "val") if path.startswith("hot")} == set(order[5:7])
    assert load_data(root) == data
    assert load_data(root, seed=1) != data


def test_split_of_a_class_does_not_depend_on_other_classes(tmp_path: Path) -> None:
    touch(tmp_path / "a", *(f"dog/{n}.jpg" for n in range(9)), "cat/1.jpg", "cat/2.jpg")
    touch(tmp_path / "b", *(f"dog/{n}.jpg" for n in range(9)), *(f"ant/{n}.jpg" for n in range(7)))
    one, other = load_data(tmp_path / "a"), load_data(tmp_path / "b")
    for split in ("train", "val", "test"):
        dogs = [[path for path in paths(data, split) if path.startswith("dog")] for data in (one, other)]
        assert dogs[0] == dogs[1]


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (1, (1, 0, 0)),
        (2, (1, 0, 1)),
        (3, (2, 0, 1)),
        (4, (2, 1, 1)),
        (5, (2, 1, 2)),
        (7, (4, 1, 2)),
        (40, (20, 8, 12)),
    ],
)
def test_small_classes_get_a_training_and_then_a_test_image(
    tmp_path: Path, count: int, sizes: tuple[int, int, int]
) -> None:
    touch(tmp_path, *(f"dog/{n}.jpg" for n in range(count)), *(f"cat/{n}.jpg" for n in range(count)))
    data = load_data(tmp_path)
    assert (len(data.train), len(data.val), len(data.test)) == tuple(2 * size for size in sizes)


@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_directory_with_splits(tmp_path: Path, val: str) -> None:
    touch(
        tmp_path,
        "train/dog/1.jpg",
        "train/cat/2.jpeg",
        f"{val}/dog/3.webp",
        "test/cat/4.tif",
        "test/owl/5.bmp",
    )
    data = load_data(tmp_path)
    assert data.classnames == ("cat", "dog", "owl")
    assert [(item.path, item.label) for item in data.train] == [
        ("train/cat/2.jpeg", 0),
        ("train/dog/1.jpg", 1),
    ]
    assert paths(data, "val") == [f"{val}/dog/3.webp"]
    assert paths(data, "test") == ["test/cat/4.tif", "test/owl/5.bmp"]
    with pytest.raises(DataError, match="no training image: 'owl'"):
        data.check_trainable()


def test_directory_with_train_only_has_no_test(tmp_path: Path) -> None:
    touch(tmp_path, "train/dog/1.jpg", "train/cat/2.jpg")
    data = load_data(tmp_path)
    assert len(data.train) == 2
    assert data.val == data.test == ()


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.jpg", "train/2.jpg", "bus/1.jpg", "bus/2.jpg")
    assert load_data(tmp_path).classnames == ("bus", "train")


def test_directory_ignores_hidden_and_other_files_and_follows_links(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    touch(
        root,
        "dog/1.JPG",
        "dog/._1.jpg",
        "dog/notes.txt",
        ".cache/x.jpg",
        "__MACOSX/y.jpg",
        "README.md",
        "z.jpg",
    )
    touch(tmp_path / "far", "1.tiff", "2.tiff")
    (root / "cat").symlink_to(tmp_path / "far", target_is_directory=True)
    data = load_data(root)
    assert data.classnames == ("cat", "dog")
    assert sorted(paths(data, "train") + paths(data, "test")) == ["cat/1.tiff", "cat/2.tiff", "dog/1.JPG"]
    data.check_files()


def test_directory_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no '.*nowhere'\. Use an image directory \(class/image\.jpg"):
        load_data(tmp_path / "nowhere")

    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(
        DataError, match=r"has no class directories \(it holds no image\)\. Put the images of each class"
    ):
        load_data(empty)

    touch(tmp_path / "flat", "1.jpg")
    with pytest.raises(DataError, match=r"has no class directories \(its images lie outside of class directories\)"):
        load_data(tmp_path / "flat")

    touch(tmp_path / "one", "dog/1.jpg", "dog/2.jpg")
    with pytest.raises(DataError, match=r"'one' has only one class, 'dog'"):
        load_data(tmp_path / "one")

    touch(tmp_path / "hole", "dog/1.jpg", "cat/1.jpg", "owl/notes.txt")
    with pytest.raises(DataError, match=r"class directory '.*owl' holds no image \(\.bmp, \.jpeg, .*or remove the dir"):
        load_data(tmp_path / "hole")

    touch(tmp_path / "deep", "photo/dog/1.jpg", "photo/cat/1.jpg", "sketch/dog/1.jpg")
    with pytest.raises(DataError, match=r"holds no image, but directories with images: 'cat', 'dog'\. If these are"):
        load_data(tmp_path / "deep")

    touch(tmp_path / "twin", "hot_dog/1.jpg", "hot dog/1.jpg")
    with pytest.raises(DataError, match=r"classes 'hot dog' and 'hot_dog' would both be called 'hot dog'"):
        load_data(tmp_path / "twin")

    touch(tmp_path / "blank", "_/1.jpg", "dog/1.jpg")
    with pytest.raises(DataError, match=r"class '_' has an empty name after cleaning"):
        load_data(tmp_path / "blank")

    touch(tmp_path / "loose", "train/dog/1.jpg", "train/cat/1.jpg", "test/1.jpg", "test/2.jpg")
    with pytest.raises(DataError, match=r"test' has 2 images outside of class directories, such as '1\.jpg'"):
        load_data(tmp_path / "loose")

    touch(tmp_path / "extra", "train/dog/1.jpg", "train/cat/1.jpg", "holdout/dog/2.jpg")
    with pytest.raises(DataError, match=r"has images in 'holdout', beside the directories of its splits"):
        load_data(tmp_path / "extra")

    touch(tmp_path / "vals", "train/dog/1.jpg", "train/cat/1.jpg", "val/dog/2.jpg", "valid/dog/3.jpg")
    with pytest.raises(DataError, match=r"has both 'val' and 'valid', which mean the same"):
        load_data(tmp_path / "vals")

    with pytest.raises(DataError, match=r"is an image directory, which is its own image root\. Remove `image_root`"):
        load_data(tmp_path / "hole", image_root=tmp_path)

    touch(tmp_path, "photos.zip")
    with pytest.raises(DataError, match=r"photos\.zip' has an unknown format \(\.zip\)\. Use an image directory"):
        load_data(tmp_path / "photos.zip")


# ---- manifests

Writer = Callable[..., Path]


@pytest.fixture
def manifest(tmp_path: Path) -> Writer:
    def write(text: str | bytes, name: str = "labels.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_manifest_csv(manifest: Writer, tmp_path: Path) -> None:
    # A byte order mark, another column, Windows line ends and separators, quoted comma and line break.
    text = (
        "\ufeffClass, Path ,photographer,Split\r\n"
        "dog,./a//1.jpg,Ann,train\r\n"
        'hot_dog,"a\\2,b.jpg","Bob\r\nBobson",Train\r\n'
        "\r\n"
        "dog,c/../a/3.jpg,,valid\r\n"
        "Größe,4.jpg,,test\r\n"
    )
    data = load_data(manifest(text))
    assert data.name == "labels"
    assert data.image_root == tmp_path
    assert data.classnames == ("Größe", "dog", "hot dog")
    assert [(item.path, item.label) for item in data.train] == [("a/1.jpg", 1), ("a/2,b.jpg", 2)]
    assert paths(data, "val") == ["a/3.jpg"]
    assert paths(data, "test") == ["4.jpg"]


def test_manifest_jsonl_equals_csv(manifest: Writer, tmp_path: Path) -> None:
    csv_data = load_data(manifest("path,class,split\na.jpg,dog,train\nb.jpg,cat,test\n", "x.csv"))
    lines = [
        {"path": "a.jpg", "class": "dog", "split": "train", "width": 640},
        {"class": "cat", "split": "test", "path": "b.jpg"},
    ]
    text = "\ufeff" + "\n\n".join(json.dumps(line) for line in lines)
    assert load_data(manifest(text, "x.jsonl")) == csv_data
    assert load_data(manifest(text, "x.ndjson")) == csv_data
    elsewhere = load_data(tmp_path / "x.jsonl", image_root=tmp_path.parent)
    assert elsewhere.image_root == tmp_path.parent
    assert elsewhere.fingerprint == csv_data.fingerprint


def test_manifest_without_splits_is_split_independently_of_its_order(manifest: Writer) -> None:
    rows = [f"{name}/{n}.jpg,{name}" for name in ("dog", "cat") for n in range(10)]
    data = load_data(manifest("path,class\n" + "\n".join(rows)))
    assert (len(data.train), len(data.val), len(data.test)) == (10, 4, 6)
    random.Random(1).shuffle(rows)
    shuffled = load_data(manifest("path,class,split\n" + ",\n".join(rows) + ","))
    for split in ("train", "val", "test"):
        assert set(getattr(shuffled, split)) == set(getattr(data, split))


def test_manifest_keeps_absolute_paths_outside_the_image_root(manifest: Writer, tmp_path: Path) -> None:
    outside = "/somewhere/else/2.jpg"
    data = load_data(manifest(f"path,class\n{tmp_path}/a/1.jpg,dog\n{outside},cat\n"))
    assert sorted(paths(data, "train")) == [outside, "a/1.jpg"]
    assert data.path_of(data.train[0]) in (tmp_path / "a" / "1.jpg", Path(outside))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"manifest '.*labels\.csv' lists no image"),
        ("path,class\n", r"lists no image"),
        (
            "a.jpg,dog\n",
            r"labels\.csv, line 1: the header must have the columns path,class .* it is 'a\.jpg,dog'",
        ),
        ("path;class\n", r"line 1: .* separated by commas; it is 'path;class'"),
        ("path,class,path\n", r"line 1: the header has the column 'path' twice"),
        (
            "path,class\na.jpg,dog\nb.jpg\n",
            r"line 3: 1 cells, but the header has 2 \(put a path or class with a comma",
        ),
        ("path,class\na.jpg,dog,brown\n", r"line 2: 3 cells, but the header has 2"),
        ("path,class\na.jpg,dog\n,cat\n", r"line 3: the path is empty"),
        ("path,class\na.jpg,dog\nb.jpg, \n", r"line 3: the class is empty"),
        ("path,class,split\na.jpg,dog,dev\n", r"line 2: unknown split 'dev'\. Use 'train', 'val' or 'test'"),
        (
            "path,class,split\na.jpg,dog,train\nb.jpg,cat,\n",
            r"line 3: no split, though other lines have one\. Give every line a split, or none",
        ),
        (
            "path,class\nhttps://x.org/a.jpg,dog\n",
            r"line 2: 'https://x.org/a.jpg' is a web address\. Download",
        ),
        ('path,class\n"a.jpg,dog\n', r"labels\.csv, line 2: not valid CSV: unexpected end of data"),
        (
            "path,class,split\na.jpg,dog,train\nb.jpg,cat,test\n./a.jpg,dog,test\n",
            r"image 'a\.jpg' is in both train and test \(labels\.csv, line 2; labels\.csv, line 4\)",
        ),
        (
            "path,class\na.jpg,dog\na.jpg,cat\n",
            r"image 'a\.jpg' has two classes, 'dog' and 'cat' \(.*line 2; .*line 3\)",
        ),
        ("path,class\na.jpg,dog\na.jpg,dog\n", r"image 'a\.jpg' is listed twice"),
        ("path,class\na.jpg,dog\nb.jpg,dog\n", r"'labels' has only one class, 'dog'"),
        ("path,class\na.jpg,Dog\nb.jpg,dog\n", r"classes 'Dog' and 'dog' would both be called 'dog'"),
        (
            b"path,class\na.jpg,Gr\xf6\xdfe\n",
            r"manifest '.*' is not UTF-8 \(byte 19 is 0xf6\)\. Save it as 'CSV UTF-8'",
        ),
    ],
)
def test_manifest_csv_mistakes_are_named(manifest: Writer, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(manifest(text))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"path": "a.jpg"', r"labels\.jsonl, line 2: not valid JSON"),
        ('["a.jpg", "dog"]', r"line 2: expected an object like \{\"path\".*not '\[\"a\.jpg\", \"dog\"\]'"),
        (
            '{"file": "a.jpg", "class": "dog"}',
            r"line 2: the key 'path' is missing; the keys are 'file', 'class'",
        ),
        ('{"path": "a.jpg", "class": 3}', r"line 2: 'class' must be a string, not 3"),
        ('{"path": null, "class": "dog"}', r"line 2: 'path' must be a string, not None"),
        ('{"path": "a.jpg", "class": "dog", "split": "dev"}', r"line 2: unknown split 'dev'"),
    ],
)
def test_manifest_jsonl_mistakes_are_named(manifest: Writer, line: str, message: str) -> None:
    first = '{"path": "0.jpg", "class": "cat", "split": null}'
    with pytest.raises(DataError, match=message):
        load_data(manifest(f"{first}\n{line}\n", "labels.jsonl"))


def test_image_root_must_be_a_directory(manifest: Writer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"`image_root` is '.*gone', which is not a directory"):
        load_data(manifest("path,class\na.jpg,dog\n"), image_root=tmp_path / "gone")


# ---- split files

GOOD: dict[str, Any] = {
    "train": [["z/1.jpg", 1, "zebra_fish"], ["a/1.jpg", 2, "ant"], ["m/1.jpg", 0, "mouse"]],
    "val": [["a/2.jpg", 2, "ant"]],
    "test": [["z/2.jpg", 1, "zebra_fish"]],
}


def split_file(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "split_made_up.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_split_file_keeps_its_labels(tmp_path: Path) -> None:
    data = load_data(split_file(tmp_path, GOOD), image_root=tmp_path)
    assert data.name == "split_made_up"
    assert data.classnames == ("mouse", "zebra fish", "ant")
    assert [(item.path, item.label) for item in data.train] == [
        ("z/1.jpg", 1),
        ("a/1.jpg", 2),
        ("m/1.jpg", 0),
    ]
    assert paths(data, "val") == ["a/2.jpg"]
    without_val = load_data(split_file(tmp_path, {key: GOOD[key] for key in ("train", "test")}))
    assert without_val.val == ()
    assert without_val.train == data.train


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"split file '.*' is not valid JSON: .*\. A file with one object per line must end in \.jsonl"),
        ("[1]", r"must be a JSON object with the lists 'train', 'val' and 'test'; it is another JSON value"),
        ({"images": []}, r"it is an object with the keys \['images'\]"),
        ({**GOOD, "extra": []}, r"split_made_up\.json: unknown split 'extra'"),
        ({**GOOD, "val": {}}, r"'val' must be a list of \[path, label, class name\]"),
        ({"train": [], "test": []}, r"lists no image"),
        (
            {**GOOD, "val": [["a/2.jpg", "2", "ant"]]},
            r"val\[0\]: expected \[path, label, class name\] with an integer label",
        ),
        ({**GOOD, "val": [["a/2.jpg", True, "zebra_fish"]]}, r"val\[0\]: expected"),
        ({**GOOD, "val": [["a/2.jpg", 2]]}, r"val\[0\]: expected"),
        ({**GOOD, "val": [["a/2.jpg", 2, "bee"]]}, r"val\[0\]: the label 2 is 'bee' here and 'ant' before"),
        (
            {**GOOD, "val": [["a/2.jpg", 4, "bee"]]},
            r"has 4 labels from 0 to 4, but not 3\. Labels must count",
        ),
        ({**GOOD, "val": [["a/2.jpg", -1, "bee"]]}, r"has 4 labels from -1 to 2, but not 3"),
        ({**GOOD, "val": [["a/2.jpg", 3, "ant"]]}, r"gives 'ant' two labels, 2 and 3"),
        (
            {**GOOD, "val": [["a/2.jpg", 3, "Zebra fish"]]},
            r"'zebra_fish' and 'Zebra fish' would both be called",
        ),
        (
            {**GOOD, "val": [["../a/2.jpg", 2, "ant"]]},
            r"val\[0\]: '\.\./a/2\.jpg' is outside the image root",
        ),
        ({**GOOD, "val": [["a/../../2.jpg", 2, "ant"]]}, r"is outside the image root"),
        ({**GOOD, "val": [["a\\..\\..\\2.jpg", 2, "ant"]]}, r"is outside the image root"),
        ({**GOOD, "val": [["/a/2.jpg", 2, "ant"]]}, r"must be relative to it, without '\.\.'"),
        ({**GOOD, "val": [["C:\\a\\2.jpg", 2, "ant"]]}, r"is outside the image root"),
        (
            {**GOOD, "val": [["z/1.jpg", 1, "zebra_fish"]]},
            r"'z/1\.jpg' is in both train and val.*train\[0\]; .*val\[0\]\)",
        ),
    ],
)
def test_split_file_mistakes_are_named(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(split_file(tmp_path, content))


# ---- names


def test_class_names_are_cleaned_and_composed(tmp_path: Path) -> None:
    decomposed = "cafe\u0301"
    data = load_data(split_file(tmp_path, {"train": [["1.jpg", 0, "  big__red \t dog "], ["2.jpg", 1, decomposed]]}))
    assert data.classnames == ("big red dog", "caf\u00e9")


def test_renames_keep_the_order_of_labels(tmp_path: Path) -> None:
    touch(tmp_path / "photos", "airplane_s/1.jpg", "Faces/1.jpg", "dog/1.jpg")
    new = {"airplane_s": "plane", "Faces": "a_face", "dog": "hound"}
    (tmp_path / "names.json").write_text(json.dumps(new))
    (tmp_path / "names.csv").write_text("\ufeffOld,New\nairplane s,plane\n\nFaces,a_face\ndog,hound\n")
    # Sorted by the old names: a rename must not move classes between base and new.
    expected = ("a face", "plane", "hound")
    for renames in (new, tmp_path / "names.json", tmp_path / "names.csv", str(tmp_path / "names.csv")):
        data = load_data(tmp_path / "photos", renames=renames)
        assert data.classnames == expected
        labels = {item.path.split("/")[0]: item.label for item in data.train}
        assert labels == {"Faces": 0, "airplane_s": 1, "dog": 2}
    swapped = load_data(tmp_path / "photos", renames={"dog": "Faces", "Faces": "dog"})
    assert swapped.classnames == ("dog", "airplane s", "Faces")


def test_renames_separate_classes_of_the_same_name(tmp_path: Path) -> None:
    touch(tmp_path / "photos", "hot_dog/1.jpg", "hot dog/1.jpg")
    data = load_data(tmp_path / "photos", renames={"hot_dog": "sausage"})
    assert data.classnames == ("hot dog", "sausage")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "r.json",
            '{"cow": "bull"}',
            r"rename of 'cow' matches no class\. The classes are: 'big_cat', 'dog'",
        ),
        ("r.json", '{"dog": "big cat"}', r"'big_cat' and 'dog' would both be called 'big cat'"),
        ("r.json", '{"dog": "_"}', r"class 'dog' has an empty name after cleaning"),
        ("r.json", '{"dog": "a", "dog": "b"}', r"renames file '.*' renames 'dog' twice"),
        (
            "r.json",
            '{"big  cat": "a", "big cat": "b"}',
            r"class 'big_cat' has several renames: 'big  cat', 'big cat'",
        ),
        ("r.json", '{"dog": 3}', r"must hold one JSON object of strings, like \{\"old\": \"new\"\}"),
        ("r.json", '["dog"]', r"must hold one JSON object of strings"),
        ("r.json", "{dog}", r"renames file '.*' is not valid JSON"),
        ("r.csv", "dog,a\nbig cat\n", r"r\.csv, line 2: 1 cells instead of old,new"),
        ("r.csv", 'dog,"a\n', r"r\.csv, line 1: not valid CSV"),
        ("r.txt", "dog,a", r"renames file '.*r\.txt' must be \.json with"),
        ("gone.json", None, r"renames file '.*gone\.json' cannot be read: No such file"),
    ],
)
def test_rename_mistakes_are_named(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    touch(tmp_path / "photos", "dog/1.jpg", "big_cat/1.jpg")
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        load_data(tmp_path / "photos", renames=tmp_path / name)


def test_split_file_finds_the_image_directory_beside_it(tmp_path):
    # The layout of the CoOp code: dtd/split_zhou_DescribableTextures.json and dtd/images/banded/...
    lists = {"train": [["a/1.jpg", 0, "a"]], "test": [["b/1.jpg", 1, "b"]]}
    file = tmp_path / "split_part_DescribableTextures.json"
    file.write_text(json.dumps(lists))
    for place in ("images/a", "images/b", "other"):
        (tmp_path / place).mkdir(parents=True)
    for image in ("images/a/1.jpg", "images/b/1.jpg"):
        (tmp_path / image).touch()
    data = load_data(file)
    data.check_files()
    assert data.image_root == tmp_path / "images"
    assert (data.name, data.template) == ("split_part_DescribableTextures", "{} texture.")
    assert load_data(file.rename(tmp_path / "split_zhou_DescribableTextures.json")).name == "dtd"
    # Of two candidates, neither is chosen.
    (tmp_path / "copy/a").mkdir(parents=True)
    (tmp_path / "copy/a/1.jpg").touch()
    assert load_data(tmp_path / "split_zhou_DescribableTextures.json").image_root == tmp_path

"""Publish prompts on a local stand-in for the Hugging Face hub, load them from there, and read their cards."""

import json
import re
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from local_server import TOKEN, Repository, serve_hub
from made_images import cocoop
from sweep_records import record
from tiny_models import save_open_clip

import cocoop as package
from cocoop.checkpoints.hub import hub_errors
from cocoop.checkpoints.model_card import model_card
from cocoop.checkpoints.pretrained import method_config
from cocoop.cli import main
from cocoop.errors import CheckpointError
from cocoop.methods import CoCoOp, CoOp, ZeroShot

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ["ant", "bumble bee", "cat", "dog"]
FILES = {"config.json", "prompt.safetensors", "README.md"}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A local hub, with an empty cache and user ann logged in."""
    with serve_hub() as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.address)
        pages = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", pages)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr("huggingface_hub.constants.HF_STORED_TOKENS_PATH", str(tmp_path / "tokens"))
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def changed(method):
    with torch.no_grad():
        for parameter in method.learned().values():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return method


@pytest.fixture
def method(tiny_backbone):
    return changed(CoCoOp(tiny_backbone, NAMES, seed=1))


def same(one, other):
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.equal(one.eval()(images), other(images))


def test_a_pushed_prompt_is_loaded_by_name(hub, method, tiny_backbone):
    address = method.push_to_hub("ann/bugs", commit_message="First")
    assert address == f"{hub.address}/ann/bugs/commit/{Repository.sha(1)}"
    pushed = hub.repositories["ann/bugs"]
    assert not pushed.private
    assert pushed.messages == ["First"]
    assert set(pushed.commits[-1]) == FILES
    config = json.loads(pushed.commits[-1]["config.json"])
    assert len(config.pop("saved_as")) == 32
    assert config == method_config(method)
    for name in ("ann/bugs", "hf-hub:ann/bugs", f"ann/bugs@{Repository.sha(1)}"):
        loaded = package.from_pretrained(name, backbone=tiny_backbone)
        assert type(loaded) is CoCoOp
        assert same(method, loaded)
    assert same(method, CoCoOp.from_pretrained("ann/bugs", backbone=tiny_backbone))
    with pytest.raises(
        CheckpointError, match=r"^'ann/bugs' holds a cocoop prompt, not coop; load it with cocoop\.from_pre"
    ):
        CoOp.from_pretrained("ann/bugs", backbone=tiny_backbone)


def test_a_revision_loads_that_commit_and_a_name_the_latest(hub, method, tiny_backbone):
    method.push_to_hub("ann/bugs")
    later = changed(changed(CoCoOp(tiny_backbone, NAMES, seed=1)))
    later.push_to_hub("ann/bugs")
    assert len(hub.repositories["ann/bugs"].commits) == 3
    first = Repository.sha(1)
    assert same(method, package.from_pretrained(f"ann/bugs@{first}", backbone=tiny_backbone))
    assert same(method, package.from_pretrained("ann/bugs", revision=first, backbone=tiny_backbone))
    assert same(later, package.from_pretrained("ann/bugs", backbone=tiny_backbone))


@pytest.mark.parametrize(("name", "length"), [("prompt.safetensors", 64), ("config.json", 40)])
def test_a_damaged_cache_file_is_named_and_downloaded_again_once_deleted(name, length, hub, method, tiny_backbone):
    method.push_to_hub("ann/bugs")
    assert same(method, package.from_pretrained("ann/bugs", backbone=tiny_backbone))
    (snapshot,) = Path(huggingface_hub.constants.HF_HUB_CACHE).glob(f"models--ann--bugs/snapshots/*/{name}")
    blob = snapshot.resolve()
    assert len(blob.name) == length
    whole = blob.read_bytes()
    # Another number, or another class name, of the same length: the file still parses.
    blob.write_bytes(whole.replace(b"bumble", b"humble") if length == 40 else whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError) as caught:
        package.from_pretrained("ann/bugs", backbone=tiny_backbone)
    assert f"'{snapshot}' is damaged. Delete '{blob}' to download it again." in str(caught.value)
    blob.unlink()
    assert same(method, package.from_pretrained("ann/bugs", backbone=tiny_backbone))


def test_a_local_directory_comes_before_the_hub(hub, method, tiny_backbone, tmp_path, monkeypatch):
    method.push_to_hub("ann/bugs")
    monkeypatch.chdir(tmp_path)
    other = CoOp(tiny_backbone, NAMES, context="a photo of a")
    other.save_pretrained("ann/bugs")
    assert type(package.from_pretrained("ann/bugs", backbone=tiny_backbone)) is CoOp
    assert type(package.from_pretrained("hf-hub:ann/bugs", backbone=tiny_backbone)) is CoCoOp
    with pytest.raises(CheckpointError, match=r"^'ann/bugs' is a directory and has no revisions; leave `revision`"):
        package.from_pretrained("ann/bugs", revision="v1", backbone=tiny_backbone)


def test_paths_are_not_looked_up_on_the_hub(hub, tmp_path):
    for source in (tmp_path / "runs" / "absent", str(tmp_path / "absent"), "absent", "runs/a/b"):
        with pytest.raises(CheckpointError, match=r"^There is no directory '.*'; give one written by"):
            package.from_pretrained(source)
    assert hub.requests == []


def test_a_private_repository_needs_a_token(hub, method, tiny_backbone, monkeypatch):
    method.push_to_hub("ann/bugs", private=True)
    assert hub.repositories["ann/bugs"].private
    method.push_to_hub("ann/bugs", private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(CheckpointError, match=r"The hub has no repository 'ann/bugs', or you must log in"):
        package.from_pretrained("ann/bugs", backbone=tiny_backbone, force_download=True, cache_dir="elsewhere")
    assert same(method, package.from_pretrained("ann/bugs", backbone=tiny_backbone, token=TOKEN))


def test_a_private_push_to_a_public_repository_is_refused(hub, method):
    method.push_to_hub("ann/bugs")
    with pytest.raises(CheckpointError, match=r"^The hub's ann/bugs is public already; make it private in its"):
        method.push_to_hub("ann/bugs", private=True)
    assert len(hub.repositories["ann/bugs"].commits) == 2


@pytest.mark.parametrize(
    ("name", "token", "message"),
    [
        (
            "ann/bugs",
            None,
            r"^You are not logged in to the hub, so you cannot push to 'ann/bugs'; log in with `hf",
        ),
        (
            "ann/bugs",
            "hf_wrong",
            r"^You are not logged in to the hub, so you cannot push to 'ann/bugs'; log in with `hf",
        ),
        ("bob/bugs", TOKEN, r"^Your token may not write to 'bob/bugs'; push to your own name \(`hf auth whoami`"),
        ("not a name", TOKEN, r"^'not a name' is not the name of a hub repository; it must be USER/NAME\.$"),
    ],
)
def test_a_refused_push_says_what_to_do(name, token, message, hub, method, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(CheckpointError, match=message):
        method.push_to_hub(name, token=token)
    assert hub.repositories == {}


def test_errors_about_a_card_or_an_option_are_passed_on(hub, method):
    refused = r"^The hub refused 'ann/bugs': Invalid metadata\. - license\.$"
    with pytest.raises(CheckpointError, match=refused), hub_errors("ann/bugs"):
        raise ValueError("Invalid metadata.\n- license")
    with pytest.raises(TypeError, match="priate"):
        method.push_to_hub("ann/bugs", priate=True)


def test_an_invalid_token_is_explained(hub, method, tiny_backbone):
    method.push_to_hub("ann/bugs")
    with pytest.raises(CheckpointError, match=r"The hub does not accept your token for 'ann/bugs'; log in again with"):
        package.from_pretrained("ann/bugs", token="hf_old")


def test_a_missing_repository_revision_or_file_is_named(hub, method, tiny_backbone):
    absent = r"The hub has no repository 'ann/absent', or you must log in to see it \(`hf auth login`\)\.$"
    with pytest.raises(CheckpointError, match=rf"^There is no directory 'ann/absent'\. {absent}"):
        package.from_pretrained("ann/absent")
    with pytest.raises(CheckpointError, match=rf"^{absent}"):
        package.from_pretrained("hf-hub:ann/absent")
    method.push_to_hub("ann/bugs")
    with pytest.raises(CheckpointError, match=r"The hub's ann/bugs has no revision 'v9'\.$"):
        package.from_pretrained("ann/bugs@v9")
    hub.repositories["ann/other"] = Repository(commits=[{"model.bin": b"x"}])
    with pytest.raises(CheckpointError, match=r"^The hub's ann/other is not a saved prompt: it has no config\.json\.$"):
        package.from_pretrained("hf-hub:ann/other")


def test_without_a_network_the_cache_is_used(hub, method, tiny_backbone, monkeypatch):
    method.push_to_hub("ann/bugs")
    package.from_pretrained("ann/bugs", backbone=tiny_backbone)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert same(method, package.from_pretrained("ann/bugs", backbone=tiny_backbone))
    message = r"^The hub's ann/new is not cached and cannot be downloaded \(.*refused.*\)\. Connect once to download "
    with pytest.raises(
        CheckpointError, match=message + r"it, or give a directory written by `cocoop train`\.$"
    ) as caught:
        package.from_pretrained("hf-hub:ann/new")
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match=r"^Could not write 'ann/bugs' on the hub \(.*refused.*\)\. Check"):
        method.push_to_hub("ann/bugs")


def sections(card):
    """Return the metadata of a card, and its text."""
    _, metadata, text = card.split("---\n", 2)
    return yaml.safe_load(metadata), text


def card_of(method, **options):
    return sections(str(model_card(method_config(method), **options)))


def test_a_card_is_written_once_and_an_edited_one_is_kept(hub, method, tmp_path):
    assert method.save_pretrained(tmp_path, model_card_kwargs={"license": "mit"}) is None
    assert {path.name for path in tmp_path.iterdir()} == FILES
    card = (tmp_path / "README.md").read_text()
    assert sections(card)[0] == {
        "library_name": "cocoop",
        "license": "mit",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": ["clip", "few-shot", "prompt-learning", "cocoop"],
    }
    assert "cocoop predict USER/NAME " in card
    (tmp_path / "README.md").write_text(card.replace("# CoCoOp prompt", "# My bugs"))
    method.save_pretrained(tmp_path, push_to_hub=True, repo_id="ann/bugs")
    pushed = hub.repositories["ann/bugs"].commits[-1]["README.md"].decode()
    assert pushed == (tmp_path / "README.md").read_text().replace("USER/NAME", "ann/bugs")
    assert "# My bugs" in pushed
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(CheckpointError, match=r"README\.md' is not a model card: .*while parsing"):
        method.push_to_hub("ann/more", model_card_kwargs={"directory": tmp_path})
    assert "ann/more" not in hub.repositories


def test_a_card_names_licence_and_base_model_only_if_known(method, monkeypatch):
    assert "license" not in card_of(method)[0]
    monkeypatch.setattr(method.backbone, "name", "transformers:openai/clip-vit-base-patch32@v2")
    metadata, text = card_of(method)
    assert metadata["base_model"] == "openai/clip-vit-base-patch32"
    assert "`transformers:openai/clip-vit-base-patch32@v2`" in text
    monkeypatch.setattr(method.backbone, "name", "local-dir:/home/ann/secret/clip")
    metadata, text = card_of(method, repo_id="ann/bugs")
    assert "base_model" not in metadata
    assert "secret" not in text
    assert 'cocoop.from_pretrained("ann/bugs", backbone=cocoop.load_backbone("local-dir:PATH"))' in text


def test_a_card_escapes_class_names_and_shortens_long_lists(tiny_backbone):
    odd = ["<script>alert(1)</script>", "a|b", "*star*", "[link](http://x)", "two\nlines", "`code`", "R&D"]
    _, text = card_of(ZeroShot(tiny_backbone, odd))
    assert (
        "7 classes: &lt;script&gt;alert(1)&lt;/script&gt;, a\\|b, \\*star\\*, \\[link\\](http://x), two lines, "
        "\\`code\\`, R&amp;D."
    ) in text
    many = ZeroShot(tiny_backbone, [f"class {i}" for i in range(1000)])
    _, text = card_of(many)
    assert "1,000 classes: class 0, class 1, " in text
    assert ", class 19 and 980 more, all in `config.json`.\n" in text
    assert "class 20" not in text
    assert len(text) < 3000


def test_a_card_shows_the_record_of_an_experiment(method, tmp_path):
    whole = record("cocoop", {"base": 81.25, "new": 81.25}, data="bugs", seed=3, preset="cached")
    whole["train"]["workers"] = 2
    (tmp_path / "record.json").write_text(json.dumps(whole))
    _, text = card_of(method, directory=tmp_path)
    assert "The experiment base-to-new, preset cached. Harmonic mean H of base and new: 81.2 %." in text
    assert "| new | 3 | 700 | 81.2 | 80.2 |" in text
    for fact in ("| data | bugs |", "| images per class | 16 |", "| seed | 3 |", "| epochs | 4 |"):
        assert fact in text
    assert "workers" not in text


@pytest.fixture(scope="module")
def home(home):
    """A directory with photos, and the run of a short training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        command = "train photos --shots 2 --method coop --epochs 2 --cache-features --feature-cache cache --output run"
        main(command.split())
    return home


def test_a_card_shows_the_records_of_a_run(home):
    metadata, text = sections((home / "run" / "README.md").read_text())
    assert metadata["tags"][-1] == "coop"
    results = json.loads((home / "run" / "results.json").read_text())
    assert f"| all classes | {results['images']} | {results['accuracy']:.1f} | {results['macro_f1']:.1f} |" in text
    for method in json.loads((home / "run" / "base_to_new.json").read_text())["methods"]:
        h = f"{method['harmonic_mean']:.1f}"
        assert re.search(rf"\| \S.* \| {method['base']['accuracy']:.1f} \| .* \| {h} \|", text), method["method"]
    for fact in ("# CoOp prompt for photos", "4 classes: cherry, leaf, sea, sun.", "| images per class | 2 |"):
        assert fact in text
    assert "It does not replace CLIP." in text


def test_a_pushed_run_works_with_other_commands(home, hub, capsys, monkeypatch):
    monkeypatch.chdir(home)
    main(["push", "run", "ann/colours", "--private", "--license", "mit"])
    out, err = capsys.readouterr()
    assert out == f"{hub.address}/ann/colours/commit/{Repository.sha(1)}\n"
    assert err == "Predict with: cocoop predict ann/colours PHOTOS...\n"
    pushed = hub.repositories["ann/colours"]
    assert pushed.private
    assert set(pushed.commits[-1]) == FILES
    for name in ("config.json", "prompt.safetensors"):
        assert pushed.commits[-1][name] == (home / "run" / name).read_bytes()
    metadata, text = sections(pushed.commits[-1]["README.md"].decode())
    assert metadata["license"] == "mit"
    assert "cocoop predict ann/colours " in text

    main(["predict", "run", "photos", "--format", "jsonl"])
    local = capsys.readouterr().out
    for name in ("ann/colours", f"hf-hub:ann/colours@{Repository.sha(1)}"):
        main(["predict", name, "photos", "--format", "jsonl"])
        assert capsys.readouterr().out == local
    main(["explain", "ann/colours"])
    assert json.loads((home / "explain" / "explain.json").read_text())["run"] == "ann/colours"
    classifier = package.Classifier.from_pretrained("ann/colours", revision="main", classes=["sun", "sea"])
    assert classifier.predict("photos/sea/00.png") in ("sun", "sea")


def test_a_push_without_login_prints_one_line(home, tmp_path):
    with serve_hub() as hub:
        environment = {"HF_HOME": str(tmp_path), "HF_TOKEN": "", "HF_ENDPOINT": hub.address}
        done = cocoop("push", "run", "ann/colours", cwd=home, **environment)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "cocoop: You are not logged in to the hub, so you cannot push to 'ann/colours'; log in with `hf auth login`, "
        "or set HF_TOKEN to a token with write access.\n"
    )


def test_a_prompt_keeps_the_commit_of_its_backbone(hub, tmp_path):
    def files(directory):
        return {path.name: path.read_bytes() for path in directory.iterdir()}

    first = files(save_open_clip(tmp_path / "first", "vit"))
    hub.repositories["ann/tiny"] = Repository(commits=[{}, first])
    backbone = package.load_backbone("hf-hub:ann/tiny")
    assert backbone.name == f"hf-hub:ann/tiny@{Repository.sha(1)}"
    changed(CoCoOp(backbone, NAMES, seed=1)).save_pretrained(tmp_path / "prompt")
    # A later commit changes the backbone.
    other = save_open_clip(tmp_path / "other", "vit_quick_gelu")
    hub.repositories["ann/tiny"].commits.append(files(other))
    assert package.load_backbone("hf-hub:ann/tiny").name.endswith(f"@{Repository.sha(2)}")
    again = package.from_pretrained(tmp_path / "prompt")
    assert again.backbone.name == backbone.name
    assert again.backbone.text_tower.config.activation == backbone.text_tower.config.activation == "gelu"

"""Names of backbones: suggestions for unknown ones, and loading without a network."""

import json
import os
import re
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import open_clip
import pytest
import torch
from tiny_models import TEXTS, save_open_clip, save_transformers

import cocoop
from cocoop.backbones.backbone import check_precision
from cocoop.backbones.open_clip_models import OPENAI_NAMES
from cocoop.errors import BackboneError

pytestmark = pytest.mark.usefixtures("one_thread")


def refused(name, message, **options):
    with pytest.raises(BackboneError, match=message) as caught:
        cocoop.load_backbone(name, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("vit-b/16", "did you mean ViT-B/16"),
        ("ViT-B-32", "did you mean ViT-B/32"),
        ("ViT-L/14@336", "did you mean ViT-L/14@336px"),
        ("RN-50", "did you mean RN50"),
        ("light", "did you mean lite"),
        ("laion/CLIP-ViT-H", r"did you mean hf-hub:laion/CLIP-ViT-H \(open_clip\) or transformers:laion/CLIP-ViT-H"),
    ],
)
def test_unknown_names_suggest_the_nearest(name, hint):
    refused(name, f"^There is no backbone '{re.escape(name)}'; {hint}\\? Choose from lite, RN50, .*, local-dir:PATH")


@pytest.mark.parametrize("name", ["", "nonsense", "local-dir:", "ftp:x", "a/b/c"])
def test_names_unlike_any_other_list_all_names(name):
    refused(
        name, f"^There is no backbone '{name}'. Use one of lite, RN50, .*, transformers:ORG/NAME, .*, openai:FILE.pt"
    )


def test_paths_without_a_prefix_suggest_one(tmp_path):
    refused(str(tmp_path), f"did you mean local-dir:{tmp_path}")
    (tmp_path / "x.pt").touch()
    refused(str(tmp_path / "x.pt"), f"did you mean openai:{tmp_path}/x.pt")


@pytest.mark.parametrize(
    ("identifier", "message"),
    [
        ("ViT-B-16/nope", "open_clip has no weights 'nope' of ViT-B-16; it has openai, laion400m_e31, "),
        ("ViT-B/16/nope", "open_clip has no weights 'nope' of ViT-B-16; it has openai, "),
        ("ViT-B-17/openai", "has no published weights of 'ViT-B-17'; the nearest names are open_clip:ViT-B-16/openai"),
        ("ViT-B-16", "has no published weights of 'ViT-B-16'; the nearest names are open_clip:ViT-B-16"),
    ],
)
def test_unknown_tags_list_the_published_ones(identifier, message):
    refused(f"open_clip:{identifier}", message)


@pytest.mark.parametrize(
    ("identifier", "reason"),
    [
        ("ViT-B-16-SigLIP/webli", "its text tower is not causal"),
        ("coca_ViT-B-32/laion2b_s13b_b90k", "it is a CoCa model"),
        ("xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k", "its text tower is xlm-roberta-base"),
    ],
)
def test_unsupported_published_models_are_refused_before_download(identifier, reason):
    refused(f"open_clip:{identifier}", f"^open_clip:{identifier} cannot be used: {reason}")


@pytest.mark.parametrize("source", ["hf-hub", "transformers"])
def test_invalid_repository_names_are_refused(source):
    refused(f"{source}:a b", "'a b' is not a repository name; it must be ORG/NAME")


def test_openai_names_are_complete():
    assert set(OPENAI_NAMES.values()) == {
        name for name in open_clip.list_openai_models() if not name.endswith("-quickgelu")
    }


def test_precision_and_device_are_checked_first():
    with pytest.raises(BackboneError, match=r"^`precision` is 'fp8'; it must be one of fp32, bf16, fp16\.$"):
        check_precision("fp8")
    refused("nonsense", "^The device 'nowhere' cannot be used here: ", device="nowhere")


LOAD = """
import sys, torch, cocoop
from tiny_models import TEXTS
for name in sys.argv[1:]:
    try:
        backbone = cocoop.load_backbone(name)
        tokens = torch.tensor([[backbone.tokenizer.sos, *backbone.tokenizer.encode(TEXTS[0]), backbone.tokenizer.eot]])
        print(backbone.name, backbone.encode_text(tokens)[0, :4].tolist())
    except cocoop.BackboneError as error:
        print(error)
"""


def in_a_new_process(*names, **environment):
    """Load each name in a new process, which reads the hub's settings, and return one line each."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    run = subprocess.run(
        [sys.executable, "-c", LOAD, *names],
        capture_output=True,
        text=True,
        env={**inherited, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", **environment},
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    # Nothing but the answer: no retries, no warnings, no progress.
    assert run.stderr == ""
    lines = run.stdout.splitlines()
    assert len(lines) == len(names)
    return lines


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"HF_HUB_OFFLINE": "1"}, "offline mode is enabled"),
        # Reserved never to exist (RFC 2606).
        ({"HF_ENDPOINT": "http://hub.invalid"}, ""),
    ],
    ids=["offline", "unresolvable"],
)
def test_without_a_network_the_message_suggests_lite(environment, reason, tmp_path):
    names = ("ViT-B/16", "RN50", "open_clip:ViT-B-32/laion2b_s34b_b79k", "hf-hub:org/name@v2", "transformers:org/name")
    lines = in_a_new_process(*names, HF_HOME=str(tmp_path), no_proxy="*", **environment)
    for name, line in zip(names, lines, strict=True):
        assert line.startswith(f"{name} is not cached and cannot be downloaded (")
        assert reason in line
        assert line.endswith('). Connect once to download it, or use `backbone="lite"`, which needs no network.')


def cache(home, repository, source, revisions=("main",), commit="0123456789abcdef0123456789abcdef01234567"):
    """Write a repository to the hub's cache, as a download does."""
    place = home / "hub" / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True, exist_ok=True)
    for revision in revisions:
        (place / "refs" / revision).write_text(commit)
    shutil.copytree(source, place / "snapshots" / commit)


def test_cached_models_need_no_network(tmp_path):
    """This includes revisions, and a tokenizer from another repository."""
    home = tmp_path / "home"
    plain = save_open_clip(tmp_path / "open_clip", "vit")
    other = save_open_clip(tmp_path / "pickled", "vit_quick_gelu", files=False)
    hugging = save_transformers(tmp_path / "transformers")
    config = plain / "open_clip_config.json"
    content = json.loads(config.read_text())
    content["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "org/tokenizer"
    cache(home, "org/plain", plain)
    cache(home, "org/plain", other, revisions=["v2"], commit="f" * 40)
    cache(home, "org/hugging", hugging)
    cache(home, "org/tokenizer", hugging)
    config.write_text(json.dumps(content))
    cache(home, "org/lent", plain)
    (plain / "open_clip_model.safetensors").unlink()
    cache(home, "org/half", plain)
    found = in_a_new_process(
        "hf-hub:org/plain",
        "hf-hub:org/plain@v2",
        f"local-dir:{other}",
        "transformers:org/hugging",
        f"local-dir:{hugging}",
        "hf-hub:org/lent",
        "hf-hub:org/half",
        "hf-hub:org/hugging",
        "hf-hub:org/plain@v3",
        HF_HOME=str(home),
        HF_HUB_OFFLINE="1",
    )
    numbers = [line.partition(" ")[2] for line in found]
    assert re.match(r"hf-hub:org/plain@[0-9a-f]{40} \[", found[0])
    assert numbers[0] != numbers[1]
    assert numbers[1] == numbers[2]
    assert numbers[3] == numbers[4]
    assert numbers[5] == numbers[0]
    assert found[6].startswith(
        "hf-hub:org/half is incomplete: the hub's org/half has none of open_clip_model.safetensors"
    )
    assert found[7].endswith(
        "is not an open_clip model: it has no open_clip_config.json; try transformers:org/hugging."
    )
    assert found[8].startswith("hf-hub:org/plain@v3 is not cached and cannot be downloaded (")


class Hub(BaseHTTPRequestHandler):
    """Server that answers as the hub does for missing repositories and revisions."""

    def do_GET(self):
        self.send_response(404)
        self.send_header("X-Error-Code", "RevisionNotFound" if "real" in self.path else "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


def test_missing_repositories_and_revisions_are_explained(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        lines = in_a_new_process(
            "hf-hub:org/nothing",
            "transformers:org/real@v9",
            HF_HOME=str(tmp_path),
            HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}",
            no_proxy="*",
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert lines == [
        "The hub has no repository 'org/nothing', or you must log in to see it (`hf auth login`).",
        "The hub's org/real has no revision 'v9'.",
    ]


@pytest.mark.slow
def test_openai_names_load_with_quick_gelu(tmp_path):
    """RN50 with random weights: open_clip's architecture has GELU, but OpenAI's weights need QuickGELU."""
    directory = tmp_path / "weights"
    directory.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model("RN50-quickgelu").eval()
    from safetensors.torch import save_file

    save_file(model.state_dict(), directory / "open_clip_model.safetensors")
    cache(tmp_path / "home", "timm/resnet50_clip.openai", directory)
    with torch.no_grad():
        expected = model.encode_text(open_clip.tokenize(TEXTS[:1]))[0, :4]
    names = ("RN50", "open_clip:RN50/openai", "open_clip:RN50-quickgelu/openai@main")
    commit = "0123456789abcdef0123456789abcdef01234567"
    pinned = ("RN50", f"open_clip:RN50/openai@{commit}", f"open_clip:RN50-quickgelu/openai@{commit}")
    lines = in_a_new_process(*names, HF_HOME=str(tmp_path / "home"), HF_HUB_OFFLINE="1")
    assert [line.partition(" ")[0] for line in lines] == list(pinned)
    for line in lines:
        found = torch.tensor(json.loads(line.partition(" ")[2]))
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()

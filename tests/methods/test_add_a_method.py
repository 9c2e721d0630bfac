"""The walk-through "Add a method" in docs/architecture.md, followed with a small method."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cocoop
from cocoop.methods import METHODS, Method
from cocoop.methods.context import pack_prompts, prompt_ids, word_context

pytestmark = pytest.mark.usefixtures("one_thread")


class TextOffset(Method):
    """Zero-shot CLIP with a learned offset that is added to all class features."""

    key = "text-offset"

    def __init__(self, backbone, classnames):
        super().__init__(backbone, classnames)
        self.offset = nn.Parameter(torch.zeros(backbone.embed_dim))
        self.build_prompts(self.classnames)

    def learned(self):
        return {"offset": self.offset}

    def settings(self):
        return {}

    @torch.no_grad()
    def build_prompts(self, classnames):
        context = word_context(self.backbone, "a photo of a")
        ids = prompt_ids(self.backbone, classnames, context_length=len(context))
        texts = self.backbone.text_tower(context[None], pack_prompts(self.backbone, ids))
        self.register_buffer("texts", F.normalize(texts.float(), dim=-1), persistent=False)

    def text_features(self, image_features):
        return F.normalize(self.texts + self.offset, dim=-1)


@pytest.fixture
def method(tiny_backbone, monkeypatch):
    monkeypatch.setitem(METHODS, TextOffset.key, TextOffset)
    return TextOffset(tiny_backbone, ["cherry", "leaf", "sea", "sun"])


def test_a_new_method_is_trained_saved_and_loaded(method, home, tmp_path):
    data = cocoop.load_data(home / "photos").few_shot(4, seed=1)
    config = cocoop.TrainConfig(epochs=3, warmup_epochs=0, learning_rate=0.01, cache_features=True, workers=0)
    history = cocoop.fit(method, data, config, run=tmp_path / "run").history
    assert history[-1]["loss"] < history[0]["loss"]
    method.save_pretrained(tmp_path / "run")
    assert "# text-offset prompt for photos" in (tmp_path / "run" / "README.md").read_text()
    loaded = cocoop.from_pretrained(tmp_path / "run", backbone=method.backbone)
    assert type(loaded) is TextOffset
    assert torch.equal(loaded.offset, method.offset)
    loaded.set_classes(["sun", "deep sea"])
    assert cocoop.Classifier(loaded).predict(home / "photos" / "sun" / "00.png") in ("sun", "deep sea")


def test_a_new_method_equals_a_plain_implementation(method):
    x, labels = torch.randn(5, method.backbone.embed_dim), torch.tensor([0, 1, 2, 3, 0])
    with torch.no_grad():
        method.offset += 0.1
    texts = F.normalize(method.texts[0] + method.offset, dim=-1)
    plain = F.cross_entropy(method.backbone.logit_scale.exp() * F.normalize(x, dim=-1) @ texts.T, labels)
    parts = [loss for loss, _ in method.losses(x, labels)]
    assert len(parts) == 1
    torch.testing.assert_close(parts[0], plain)
    torch.testing.assert_close(*(torch.autograd.grad(loss, method.offset)[0] for loss in (parts[0], plain)))

"""Logits and gradients of all methods against the plain reference: fp32, 1e-5."""

import pytest
import torch
import torch.nn.functional as F
from reference import conditional_logits, static_logits
from tiny_backbone import make_tiny_backbone

from cocoop.errors import ConfigError
from cocoop.methods import CoCoOp, CoOp, ZeroShot

# One token, several tokens, shared first tokens, punctuation that merges with the full stop, equal lengths.
NAMES = [
    "cat",
    "Boeing 737-800",
    "Boeing 737",
    "great_white shark",
    "dog",
    "U.S.",
    "antirrhinum majus (snapdragon), a very long name of a very common flower indeed",
    "2012 BMW M3 coupe",
    "tiger",
]
ACTIVATIONS = ["gelu", "quick_gelu"]


def features(backbone, count=5, seed=1):
    return torch.randn(count, backbone.embed_dim, generator=torch.Generator().manual_seed(seed))


def assert_same(ours, plain):
    """Equal to 1e-5 of the largest entry."""
    scale = plain.abs().max()
    assert scale > 0
    torch.testing.assert_close(ours / scale, plain / scale, rtol=0, atol=1e-5)


def assert_same_gradients(method, plain_loss, ours_loss):
    learned = method.learned()
    ours = torch.autograd.grad(ours_loss, list(learned.values()))
    plain = torch.autograd.grad(plain_loss, list(learned.values()))
    for name, a, b in zip(learned, ours, plain, strict=True):
        scale = b.abs().max()
        assert scale > 1e-6, f"{name}: the gradient is zero, nothing is compared"
        torch.testing.assert_close(a / scale, b / scale, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("context", ["a photo of a", None, "a bioluminescent"])
def test_cocoop_equals_the_reference(activation, context):
    backbone = make_tiny_backbone(activation)
    method = CoCoOp(backbone, NAMES, context, seed=0)
    x, labels = features(backbone), torch.tensor([0, 3, 6, 8, 1])
    ours = method.logits(x)
    plain = conditional_logits(backbone, NAMES, x, method.context, method.meta_net)
    assert_same(ours, plain)
    assert_same_gradients(method, F.cross_entropy(plain, labels), F.cross_entropy(ours, labels))
    with torch.no_grad():
        assert_same(method.logits(x), plain)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize(("context", "class_specific"), [("a photo of a", False), (None, False), (None, True)])
def test_coop_equals_the_reference(tiny_backbone, position, context, class_specific):
    method = CoOp(
        tiny_backbone, NAMES, context, context_length=5, class_specific=class_specific, position=position, seed=0
    )
    x, labels = features(tiny_backbone), torch.tensor([0, 3, 6, 8, 1])
    ours = method.logits(x)
    plain = static_logits(tiny_backbone, NAMES, x, method.context, position)
    assert_same(ours, plain)
    assert_same_gradients(method, F.cross_entropy(plain, labels), F.cross_entropy(ours, labels))
    assert_same(method.scorer()(x), plain)


def test_zero_shot_equals_coop_with_the_same_words(tiny_backbone):
    x = features(tiny_backbone)
    plain = static_logits(tiny_backbone, NAMES, x, CoOp(tiny_backbone, NAMES, "a photo of a").context.detach())
    assert_same(ZeroShot(tiny_backbone, NAMES, "a photo of a {}.").logits(x), plain)


def test_an_ensemble_averages_normalised_features(tiny_backbone):
    templates = ["a photo of a {}.", "{} texture.", "itap of the {}, a type of pet."]
    x = features(tiny_backbone)
    each = [ZeroShot(tiny_backbone, NAMES, template).text_features(x)[0] for template in templates]
    texts = F.normalize(sum(each) / len(each), dim=-1)
    plain = tiny_backbone.logit_scale.exp() * F.normalize(x, dim=-1) @ texts.T
    assert_same(ZeroShot(tiny_backbone, NAMES, templates).logits(x), plain)


@pytest.mark.parametrize("method_type", [CoOp, CoCoOp])
def test_new_classes_use_the_learned_prompt(tiny_backbone, method_type):
    method = method_type(tiny_backbone, ["cat", "dog"], "a photo of a", seed=0)
    with torch.no_grad():
        method.context += 0.1
    method.set_classes(NAMES)
    x = features(tiny_backbone)
    plain = (
        static_logits(tiny_backbone, NAMES, x, method.context)
        if method_type is CoOp
        else conditional_logits(tiny_backbone, NAMES, x, method.context, method.meta_net)
    )
    assert_same(method.logits(x), plain)


def test_class_specific_contexts_stay_with_their_classes(tiny_backbone):
    method = CoOp(tiny_backbone, NAMES, class_specific=True, context_length=3, seed=0)
    x = features(tiny_backbone)
    whole = method.logits(x)
    method.set_classes([NAMES[7], NAMES[2]])
    assert_same(method.logits(x), whole[:, [7, 2]])


def test_one_class_and_one_image(tiny_backbone):
    method = CoCoOp(tiny_backbone, ["cat"], seed=0)
    x = features(tiny_backbone, 1)
    assert_same(method.logits(x), conditional_logits(tiny_backbone, ["cat"], x, method.context, method.meta_net))


def test_many_images_equal_each_alone(tiny_backbone):
    # Without gradients, images are encoded in batches.
    method = CoCoOp(tiny_backbone, NAMES, seed=0)
    x = features(tiny_backbone, 800)
    with torch.no_grad():
        together = method.logits(x)
    batch = method.prompts.images_at_once
    assert batch < len(x), "the images fit one batch, nothing is compared"
    for i in (0, batch - 1, batch, len(x) - 1):
        assert_same(together[i : i + 1], method.logits(x[i : i + 1]))


def test_imagenet_prompts_compute_only_the_tree(tiny_backbone):
    """ImageNet names with "a photo of a": 5 shared positions and the ragged suffixes, not 77,000."""
    import open_clip

    names = list(dict.fromkeys(open_clip.IMAGENET_CLASSNAMES))
    suffixes = [tiny_backbone.tokenizer.encode(name + ".") for name in names]
    ragged = sum(len(suffix) + 1 for suffix in suffixes)
    branches = {tuple(suffix[:i]) for suffix in suffixes for i in range(1, len(suffix) + 1)}
    method = CoCoOp(tiny_backbone, names, seed=0)
    trees = len(method.prompts.trees)
    assert 5 + len(branches) + len(names) <= method.prompts.rows < 5 * trees + ragged


@pytest.mark.parametrize("shortlist", [1, 3, len(NAMES), 100])
def test_a_shortlist_gives_exact_logits_for_its_classes(tiny_backbone, shortlist):
    # The shortlist holds the K classes that the unshifted prompt ranks highest.
    method = CoCoOp(tiny_backbone, NAMES, seed=0)
    x = features(tiny_backbone)
    kept = min(shortlist, len(NAMES))
    exact, short = method.logits(x), method.shortlist_scorer(shortlist)(x)
    ranked = static_logits(tiny_backbone, NAMES, x, method.context.detach()).argsort(descending=True)[:, :kept]
    assert_same(short.gather(1, ranked), exact.gather(1, ranked))
    assert torch.isfinite(short).sum(1).tolist() == [kept] * len(x)


def test_an_empty_shortlist_and_other_methods_are_refused(tiny_backbone):
    with pytest.raises(ConfigError, match="`shortlist` is 0; it must be at least 1"):
        CoCoOp(tiny_backbone, NAMES, seed=0).shortlist_scorer(0)
    with pytest.raises(ConfigError, match="`shortlist` is for CoCoOp; coop has the same prompt for every image"):
        CoOp(tiny_backbone, NAMES, seed=0).shortlist_scorer(3)

"""The text tower: which rows it computes, and that devices, trees and memory budgets give the same numbers."""

import random

import pytest
import torch
import torch.nn.functional as F
from reference import conditional_logits
from tiny_backbone import make_tiny_backbone

from cocoop.methods import CoCoOp, CoOp, ZeroShot
from cocoop.text import memory, tower, tree
from cocoop.text.attention import by_mask, by_pair
from cocoop.text.tree import Prompts, PromptTree

CARS = [
    f"{year} {make} {model}"
    for year in (2007, 2012)
    for make in ("BMW", "Audi", "Aston Martin")
    for model in ("M3 Coupe", "M3 Convertible", "TTS", "V8 Vantage Coupe", "V8 Vantage Convertible")
]


def features(backbone, count=4, seed=1):
    return torch.randn(count, backbone.embed_dim, generator=torch.Generator().manual_seed(seed))


def step(method, x):
    """Return loss and gradients of one training step."""
    labels = torch.arange(len(x)) % len(method.classnames)
    loss = F.cross_entropy(method.logits(x), labels)
    return [loss.detach(), *torch.autograd.grad(loss, list(method.learned().values()))]


def rows_computed(method, x):
    """Return the number of rows that the MLP of each layer computes in the forward pass of one step."""
    rows = [0] * len(method.backbone.text_tower.blocks)

    def hook(layer):
        def count(_module, inputs, _output):
            rows[layer] += inputs[0].shape[:-1].numel()

        return count

    blocks = enumerate(method.backbone.text_tower.blocks)
    handles = [block.fc.register_forward_hook(hook(layer)) for layer, block in blocks]
    try:
        step(method, x)
    finally:
        for handle in handles:
            handle.remove()
    return rows


def random_suffixes(seed, count, vocabulary=4, longest=9):
    generator = random.Random(seed)
    bodies = {
        tuple(generator.randrange(vocabulary) for _ in range(generator.randint(1, longest))) for _ in range(count)
    }
    return [[*body, 99] for body in bodies]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("queries", ["every_row", "leaves"])
def test_attention_by_pair_equals_attention_by_mask(seed, queries):
    prompts = PromptTree([50, -1, -2][: 1 + seed % 3], random_suffixes(seed, [1, 2, 7, 30, 60, 100][seed]))
    rows = getattr(prompts, queries)
    generator = torch.Generator().manual_seed(seed)
    q, k, v, g = (torch.randn(prompts.rows, 3, 16, generator=generator) for _ in range(4))
    inputs = [rows.select(q).requires_grad_(), k.requires_grad_(), v.requires_grad_()]
    one, other = by_pair(*inputs, rows, 4), by_mask(*inputs, rows, 4)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    gradients = (torch.autograd.grad(attended, inputs, rows.select(g)) for attended in (one, other))
    for a, b in zip(*gradients, strict=True):
        assert b.abs().max() > 1e-3
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_a_leaf_sees_its_own_prompt_only(seed):
    prefix, suffixes = [50, -1], random_suffixes(seed, 20)
    prompts = PromptTree(prefix, suffixes)
    ids = torch.cat([prompts.prefix_ids, prompts.suffix_ids])
    mask = prompts.leaves.mask(prompts.rows)
    for suffix, leaf in zip(suffixes, prompts.leaf_of.tolist(), strict=True):
        assert ids[mask[leaf]].tolist() == [*prefix, *suffix]


@pytest.mark.parametrize("names", [["cat"], CARS, ["cat", "a very long name of a very common flower indeed"]])
@pytest.mark.parametrize("images", [1, 5])
def test_each_row_is_computed_once(tiny_backbone, names, images):
    method = CoCoOp(tiny_backbone, names, seed=0)
    encode = tiny_backbone.tokenizer.encode
    suffixes = [(*encode(f"{name}."), tiny_backbone.tokenizer.eot) for name in names]
    branches = {suffix[:i] for suffix in suffixes for i in range(1, len(suffix) + 1)}
    every_row = images * (1 + method.context_length + len(branches))
    *inner, last = rows_computed(method, features(tiny_backbone, images))
    assert inner == [every_row] * len(inner)
    assert last == images * len(names)


def test_shared_first_words_are_stored_once(tiny_backbone):
    ragged = sum(len(tiny_backbone.tokenizer.encode(f"{name}.")) + 1 for name in CARS)
    assert CoCoOp(tiny_backbone, CARS, seed=0).prompts.rows - 5 < 0.6 * ragged


@pytest.mark.parametrize("rows_at_once", [1, 20, 60])
@pytest.mark.parametrize("method_type", [CoCoOp, CoOp])
def test_small_trees_equal_one_large_tree(tiny_backbone, monkeypatch, rows_at_once, method_type):
    whole = method_type(tiny_backbone, CARS, "a photo of a", seed=0)
    assert len(whole.prompts.trees) == 1
    monkeypatch.setattr(tree, "CPU_ROWS", rows_at_once)
    parts = method_type(tiny_backbone, CARS, "a photo of a", seed=0)
    assert len(parts.prompts.trees) >= 3
    if rows_at_once > 1:
        assert all(t.rows <= rows_at_once for t in parts.prompts.trees)
    x = features(tiny_backbone)
    for a, b in zip(step(parts, x), step(whole, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * b.abs().max().item())


@pytest.mark.parametrize("method_type", [CoCoOp, CoOp])
def test_memory_budgets_do_not_change_gradients(monkeypatch, method_type):
    backbone = make_tiny_backbone()
    monkeypatch.setattr(tree, "CPU_ROWS", 30)
    method = method_type(backbone, CARS, "a photo of a", seed=0)
    x, text = features(backbone), backbone.text_tower
    count = len(method.prompts.trees) * (len(x) if method_type is CoCoOp else 1)
    needed = sum(text.activation_bytes(t, 1) for t in method.prompts.trees) * count // len(method.prompts.trees)
    plain, calls = step(method, x), []
    monkeypatch.setattr(tower, "checkpoint", counted(tower.checkpoint, calls))
    recomputed = []
    for budget in (0, needed // 2, needed - 1, needed):
        text.memory_budget = budget
        calls.clear()
        for a, b in zip(step(method, x), plain, strict=True):
            assert torch.equal(a, b)
        recomputed.append(len(calls))
    assert recomputed[0] == count
    assert recomputed == sorted(recomputed, reverse=True)
    assert 0 < recomputed[1] < count
    assert recomputed[-1] == 0


def counted(function, calls):
    def call(*arguments, **options):
        calls.append(arguments)
        return function(*arguments, **options)

    return call


def test_recomputation_limits_the_memory(monkeypatch):
    # Without a budget, the saved tensors have about the estimated size; with a budget of 0, nearly none are saved.
    backbone = make_tiny_backbone(width=64, layers=4)
    monkeypatch.setattr(tree, "CPU_ROWS", 40)
    method = CoCoOp(backbone, CARS, seed=0)
    estimate = sum(backbone.text_tower.activation_bytes(t, 1) for t in method.prompts.trees)

    def kept(budget):
        backbone.text_tower.memory_budget = budget
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        weights = {p.untyped_storage().data_ptr() for p in method.parameters()}
        buffers = {b.untyped_storage().data_ptr() for b in method.buffers()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            logits = method.logits(features(backbone, 1))
        assert logits.requires_grad
        return sum(size for place, size in storages.items() if place not in weights | buffers)

    assert 0.75 * estimate < kept(None) < 1.25 * estimate
    assert kept(0) < 0.1 * estimate


def test_the_first_layer_of_class_names_is_precomputed(tiny_backbone):
    method = CoCoOp(tiny_backbone, CARS, seed=0)
    first, rows = tiny_backbone.text_tower.blocks[0], []
    handle = first.ln_1.register_forward_hook(lambda _module, inputs, _output: rows.append(inputs[0].shape[0]))
    try:
        step(method, features(tiny_backbone))
        method.set_classes(CARS[:3])
        step(method, features(tiny_backbone))
    finally:
        handle.remove()
    prefix = 1 + method.context_length
    assert rows == [prefix, method.prompts.rows - prefix, prefix]


def test_nothing_is_precomputed_for_very_many_classes(tiny_backbone, monkeypatch):
    x = features(tiny_backbone)
    plain = step(CoCoOp(tiny_backbone, CARS, seed=0), x)
    monkeypatch.setattr(tower, "MAX_PRECOMPUTED_ROWS", 10)
    method = CoCoOp(tiny_backbone, CARS, seed=0)
    assert not method.prompts.trees[0].precomputed()
    for a, b in zip(step(method, x), plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_tower_of_one_layer():
    backbone = make_tiny_backbone(layers=1)
    method, x = CoCoOp(backbone, CARS, seed=0), features(backbone)
    plain = conditional_logits(backbone, CARS, x, method.context, method.meta_net)
    torch.testing.assert_close(method.logits(x), plain, rtol=1e-5, atol=1e-5 * plain.abs().max().item())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close_to_fp32_and_has_fp32_gradients(precision):
    # bf16 keeps 8 bits: features of unit length differ by about 2**-8 per layer, and logits are scaled by 20.
    plain, half = make_tiny_backbone(), make_tiny_backbone(precision=precision)
    x = features(plain)
    exact, rough = (step(CoCoOp(backbone, CARS, seed=0), x) for backbone in (plain, half))
    for a, b in zip(rough, exact, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.1 * b.norm()
    assert any(not torch.equal(a, b) for a, b in zip(rough, exact, strict=True))


def test_features_are_in_the_order_of_the_classes(tiny_backbone):
    names = [*CARS[::-1], "zebra", "ant"]
    x = features(tiny_backbone)
    each = [ZeroShot(tiny_backbone, [name]).text_features(x)[0, 0] for name in names]
    torch.testing.assert_close(ZeroShot(tiny_backbone, names).text_features(x)[0], torch.stack(each))


def test_images_at_once_depend_on_the_prompts_only():
    cpu = torch.device("cpu")
    prompts = Prompts([50, -1, -2], random_suffixes(0, 40), device=cpu)
    assert prompts.images_at_once == tree.CPU_ROWS // prompts.rows > 1
    assert Prompts([50], random_suffixes(0, 4000, vocabulary=99), device=cpu).images_at_once == 1


def test_free_memory_respects_the_limit_of_a_container(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert memory.free_in_container(tmp_path) == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_in_container(tmp_path) > 2**50
    assert memory.free_in_container(tmp_path / "absent") > 2**50
    monkeypatch.setattr(memory, "free_in_container", lambda: 1000)
    assert memory.free_memory(torch.device("cpu")) == 700


@pytest.mark.parametrize("method_type", [CoCoOp, CoOp])
def test_losses_of_the_parts_add_up(tiny_backbone, monkeypatch, method_type):
    monkeypatch.setattr(tree, "CPU_ROWS", 100)
    method = method_type(tiny_backbone, CARS[:6], "a photo of a", seed=0)
    x = features(tiny_backbone, 7)
    loss, *gradients = step(method, x)
    parts = list(method.losses(x, torch.arange(7) % 6))
    assert [len(logits) for _, logits in parts] == ([7] if method_type is CoOp else [2, 2, 2, 1])
    total = sum(part for part, _ in parts)
    for a, b in zip(torch.autograd.grad(total, list(method.learned().values())), gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * b.abs().max().item())
    torch.testing.assert_close(total.detach(), loss)

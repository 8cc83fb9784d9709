"""A pruned model is what it claims to be: equal to the masked one, of the counted size, the same when loaded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from effir_dist.core.errors import InputError
from effir_dist.core.settings import ModelConfig
from effir_dist.models import pretrained as sources
from effir_dist.models.encoder import Encoder, build_encoder, load_encoder, make_settings, prune_encoder
from effir_dist.models.families.base import block_count, dense_layers, mlp_width
from effir_dist.models.families.registry import BACKBONES, family
from effir_dist.models.operations.drop import Drop
from effir_dist.models.operations.narrow import Narrow
from effir_dist.models.operations.neuron_order import NeuronOrder
from effir_dist.models.operations.truncate import Truncate
from effir_dist.models.pruning import PruningPlan, count_parameters, kept_by_rank, kept_neurons, make_plan
from tests.models.reference import silence
from tests.tiny import MODEL_NAMES, POST_NORM

TIES = np.random.default_rng(0).integers(0, 5, (3, 40)).astype(np.float32)
TEXTS = ["a short text", "one that is somewhat longer than the first", "x"]


def encoder_of(path: Path) -> Encoder:
    source = sources.find("", str(path))
    return build_encoder(sources.load_base(source, "float32"), make_settings(ModelConfig(), source), "float32")


def neuron_scores(encoder: Encoder, seed: int = 0) -> np.ndarray:
    shape = block_count(encoder.model_config), mlp_width(encoder.model_config)
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def batch(encoder: Encoder) -> tuple[torch.Tensor, torch.Tensor]:
    from effir_dist.models.encoder import pad

    return pad(encoder.tokenize(TEXTS, "document"), np.arange(3), encoder.pad_id, torch.device("cpu"))


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_an_empty_plan_is_the_untouched_model_bit_for_bit(name: str, checkpoints: dict[str, Path]) -> None:
    from transformers import AutoModel

    encoder = prune_encoder(encoder_of(checkpoints[name]), PruningPlan(), None)
    ids, mask = batch(encoder)
    row = family(encoder.model_config)
    options = {"attn_implementation": row.attention_implementation, **row.load_options}
    plain = AutoModel.from_pretrained(checkpoints[name], **options).eval()
    with torch.inference_mode():
        ours = encoder.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        assert torch.equal(ours, plain(input_ids=ids, attention_mask=mask).last_hidden_state)


@pytest.mark.parametrize(
    ("name", "keep_norms"), [*((name, False) for name in MODEL_NAMES), *((name, True) for name in POST_NORM)]
)
def test_a_dropped_sub_layer_equals_one_whose_output_is_zeroed(
    name: str, keep_norms: bool, checkpoints: dict[str, Path]
) -> None:
    """As zeroed before the sum, where the norm behind it is kept; a block without both gives what it is given."""
    plan = PruningPlan(dropped_mlp=(1, 3), dropped_attention=(0, 1), keep_norms=keep_norms)
    pruned, masked = (encoder_of(checkpoints[name]) for _ in range(2))
    prune_encoder(pruned, plan, None)
    row = family(masked.model_config)
    blocks = masked.backbone.get_submodule(row.blocks)
    for kind, dropped in (("mlp", plan.dropped_mlp), ("attention", plan.dropped_attention)):
        for index in dropped:
            silence(blocks[index], row, kind, keep_norms and index != 1)
    ids, mask = batch(masked)
    with torch.inference_mode():
        torch.testing.assert_close(pruned(ids, mask), masked(ids, mask), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_narrowed_equals_masked_neurons(name: str, checkpoints: dict[str, Path]) -> None:
    pruned, masked = (encoder_of(checkpoints[name]) for _ in range(2))
    scores = neuron_scores(pruned)
    plan = make_plan(pruned.model_config, [2], [], 0.4, scores, "random")
    kept = kept_neurons(plan, scores)
    prune_encoder(pruned, plan, scores)
    row = family(masked.model_config)
    masked_blocks = masked.backbone.get_submodule(row.blocks)
    prune_encoder(masked, make_plan(masked.model_config, [2]), None)
    for index, neurons in kept.items():
        gate = torch.zeros(mlp_width(masked.model_config))
        gate[torch.as_tensor(neurons)] = 1
        masked_blocks[index].get_submodule(row.mlp_out).register_forward_pre_hook(
            lambda _m, args, gate=gate: (args[0] * gate, *args[1:])
        )
    ids, mask = batch(masked)
    with torch.inference_mode():
        torch.testing.assert_close(pruned(ids, mask), masked(ids, mask), rtol=0, atol=1e-6)
    assert all(0 < len(neurons) < mlp_width(masked.model_config) for neurons in kept.values())


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_the_formula_counts_the_real_model(name: str, checkpoints: dict[str, Path]) -> None:
    for dropped, attention, ratio in [([], [], 1.0), ([0, 3], [2], 1.0), ([1], [], 0.55), ([], [0, 1, 2, 3], 0.3)]:
        encoder = encoder_of(checkpoints[name])
        scores = neuron_scores(encoder)
        plan = make_plan(encoder.model_config, dropped, attention, ratio, scores, "random")
        prune_encoder(encoder, plan, scores)
        assert sum(p.numel() for p in encoder.parameters()) == count_parameters(encoder.model_config, plan)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_the_formula_counts_every_named_backbone_at_its_real_size(name: str) -> None:
    config = BACKBONES[name].config
    dense = sum(layer.parameters for layer in dense_layers(config))
    assert sum(p.numel() for p in sources.build_empty(config).parameters()) + dense == count_parameters(config)


def test_mistral_has_the_sizes_that_the_paper_prints() -> None:
    """EffiR, table of parameter counts without LM head, in B to the printed digit."""
    config = BACKBONES["mistral-7b"].config
    plans = {
        7.1: PruningPlan(),
        5.7: PruningPlan(tuple(range(8))),
        4.3: PruningPlan(tuple(range(16))),
        3.6: PruningPlan(tuple(range(20))),
        2.9: PruningPlan(tuple(range(24))),
        6.8: PruningPlan((), tuple(range(8))),
        6.4: PruningPlan((), tuple(range(16))),
        5.4: PruningPlan(tuple(range(8)), tuple(range(8))),
        4.0: PruningPlan(tuple(range(16)), tuple(range(8))),
        3.4: make_plan(config, range(16), (), 0.7, np.random.default_rng(0).random((32, 14336)), "random"),
    }
    for billions, plan in plans.items():
        assert round(count_parameters(config, plan) / 1e9, 1) == billions


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_saved_and_loaded_gives_equal_embeddings(name: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    encoder = encoder_of(checkpoints[name])
    scores = neuron_scores(encoder)
    plan = make_plan(encoder.model_config, [1], [3], 0.6, scores, "random")
    prune_encoder(encoder, plan, scores).save(tmp_path)
    loaded = load_encoder(str(tmp_path))
    assert loaded.plan == plan
    assert loaded.settings == encoder.settings
    np.testing.assert_array_equal(loaded.encode(TEXTS, "query"), encoder.encode(TEXTS, "query"))


def test_weights_that_do_not_fit_the_plan_are_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    prune_encoder(encoder_of(checkpoints["bert"]), PruningPlan(dropped_mlp=(0,)), None).save(tmp_path)
    tree = json.loads((tmp_path / "effir.json").read_text())
    tree["plan"] = PruningPlan(dropped_mlp=(2,)).to_dict()
    (tmp_path / "effir.json").write_text(json.dumps(tree))
    with pytest.raises(InputError, match="do not fit its plan"):
        load_encoder(str(tmp_path))


def test_no_neuron_left_is_a_dropped_mlp() -> None:
    scores = np.ones((6, 1536), np.float32)
    scores[4] = 0.0
    plan = make_plan(BACKBONES["minilm"].config, [0], [], 0.8, scores, "random")
    assert plan == PruningPlan(dropped_mlp=(0, 4), keep_norms=True)


def test_widths_are_global_ranks_and_keep_the_total() -> None:
    config = BACKBONES["minilm"].config
    scores = np.random.default_rng(0).random((6, 1536)).astype(np.float32) * np.array([[1], [2], [3], [4], [5], [6]])
    plan = make_plan(config, [5], [], 0.5, scores, "random")
    widths = [width for _, width in plan.widths]
    assert widths == sorted(widths)
    assert sum(widths) == round(0.5 * 5 * 1536)


def test_equal_plans_are_equal_however_they_are_written() -> None:
    one = make_plan(BACKBONES["minilm"].config, [3, 1, 3], [2], keep_norms=False)
    other = PruningPlan.from_dict({"dropped_mlp": [1, 3], "dropped_attention": [2], "widths": {}, "ranking": ""})
    in_parts = PruningPlan(operations=[Drop(mlp=(3,)), Narrow(()), Drop((1,), (2,))])
    assert one == other == in_parts
    assert one.key() == other.key() == in_parts.key()
    assert len({one, other, in_parts}) == 1
    assert PruningPlan.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_what_was_written_before_norms_were_kept_drops_them(checkpoints: dict[str, Path]) -> None:
    """Old plans give the old models and the old keys."""
    old = {"operations": [{"kind": "drop", "mlp": [1], "attention": []}]}
    plan, kept = PruningPlan.from_dict(old), make_plan(load_encoder(str(checkpoints["bert"])).model_config, [1])
    assert not plan.keep_norms
    assert plan.to_dict() == old
    assert kept.to_dict() == {"operations": [{**old["operations"][0], "keep_norms": True}]}
    assert PruningPlan.from_dict(kept.to_dict()) == kept != plan
    with pytest.raises(InputError, match="keeps the norms of all dropped sub-layers or of none"):
        kept.with_operations([Drop(mlp=(2,))])


def test_where_norms_come_first_plans_say_nothing_of_them() -> None:
    config = BACKBONES["smollm2"].config
    assert make_plan(config, [3]).key() == make_plan(config, [3], keep_norms=False).key()
    with pytest.raises(InputError, match="keeps norms behind dropped sub-layers, but llama has none there"):
        PruningPlan(dropped_mlp=(3,), keep_norms=True).check(config)


@pytest.mark.parametrize(
    "tree",
    [
        {"dropped_mlp": [1]},
        {"operations": [{"kind": "drop", "mlp": [3], "attention": [], "keep_norms": "all"}]},
        {"operations": [{"kind": "drop", "mlp": 3, "attention": []}]},
        {"operations": [{"kind": "narrow", "widths": {"0": "wide"}, "ranking": ""}]},
        {"operations": "all"},
        {},
    ],
)
def test_other_data_is_no_plan(tree: dict) -> None:
    with pytest.raises(InputError, match="not a pruning plan"):
        PruningPlan.from_dict(tree)


def test_an_operation_that_this_version_does_not_have_is_named() -> None:
    with pytest.raises(InputError, match="unknown pruning operation 'droop'; did you mean 'drop'"):
        PruningPlan.from_dict({"operations": [{"kind": "droop"}]})
    with pytest.raises(InputError, match="one operation of kind 'truncate'"):
        PruningPlan(operations=[Truncate(8), Truncate(16)])


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (PruningPlan(dropped_mlp=(6,)), "names block 6, but the model has 6 blocks, 0 to 5"),
        (PruningPlan(widths=((0, 0),)), "gives MLP 0 the width 0"),
        (PruningPlan(widths=((0, 1537),)), "expected 1 to 1536"),
        (PruningPlan(dropped_mlp=(1,), widths=((1, 3),)), "not dropped"),
        (PruningPlan(widths=((6, 3),)), "names block 6"),
        (PruningPlan(operations=[Truncate(384)]), "cuts embeddings to 384 dimensions; expected 1 to 383"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(plan: PruningPlan, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan.check(BACKBONES["minilm"].config)


def test_batched_encoding_equals_one_at_a_time_on_either_padding_side(checkpoints: dict[str, Path]) -> None:
    for name in ("qwen3", "bert", "xlm-roberta", "mpnet"):
        encoder = encoder_of(checkpoints[name])
        together = encoder.encode(TEXTS * 3, "document", batch_tokens=60)
        alone = np.concatenate([encoder.encode([text], "document") for text in TEXTS * 3])
        np.testing.assert_allclose(together, alone, atol=1e-5)
        ids, mask = batch(encoder)
        width = ids.shape[1]
        shifts = (width - mask.sum(1)).tolist()
        left = [torch.stack([r.roll(s) for r, s in zip(t, shifts, strict=True)]) for t in (ids, mask)]
        if name != "bert":  # BERT's positions are absolute
            torch.testing.assert_close(encoder(*left), encoder(ids, mask), rtol=0, atol=1e-5)


def test_a_decoder_embeds_the_eos_token(checkpoints: dict[str, Path]) -> None:
    encoder = encoder_of(checkpoints["llama"])
    tokens = encoder.tokenize(["some text"], "document")
    assert tokens[0][-1] == encoder.tokenizer.eos_token_id
    hidden = encoder.backbone(input_ids=torch.as_tensor(tokens[0])[None].long()).last_hidden_state
    expected = torch.nn.functional.normalize(hidden[:, -1], dim=-1).detach().numpy()
    np.testing.assert_allclose(encoder.encode(["some text"], "document"), expected, atol=1e-6)


@pytest.mark.parametrize("scores", [TIES, np.ones((3, 40)), np.random.default_rng(1).random((3, 40))])
@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.3, 0.5, 0.77, 1.0])
def test_the_best_neurons_are_those_of_a_stable_sort(scores: np.ndarray, ratio: float) -> None:
    best = np.argsort(-scores, axis=None, kind="stable")[: round(ratio * scores.size)]
    assert kept_by_rank(scores, ratio).tolist() == [int((best // 40 == row).sum()) for row in range(3)]


@pytest.mark.parametrize("ties", [0, 3])
def test_the_order_of_all_neurons_tells_how_many_any_blocks_keep(ties: int) -> None:
    rng = np.random.default_rng(ties)
    scores = rng.integers(0, ties, (7, 300)).astype(float) if ties else rng.random((7, 300))
    order = NeuronOrder(scores)
    for ratio in (0.0, 0.003, 0.3, 0.5, 0.77, 1.0):
        for among in ([0], [2, 5], [0, 1, 3, 6], list(range(7))):
            assert order.kept(among, ratio).tolist() == kept_by_rank(scores[among], ratio).tolist()

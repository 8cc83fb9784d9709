"""README.md of an exported model: plan, scores with intervals, costs, how it was trained, and how to load it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from effir_dist import __version__
from effir_dist.core.measures import METRICS
from effir_dist.evaluate.comparison import paired, sample
from effir_dist.evaluate.intervals import Interval, mean_interval
from effir_dist.export.model_folder import CODE, block_configs, is_plain
from effir_dist.models.families.backbones import backbone
from effir_dist.models.pruning import PruningPlan, mlp_widths
from effir_dist.report.page_data import model_name
from effir_dist.runs.pareto import unpruned
from effir_dist.runs.run_folder import SPLITS, Run, read_queries

if TYPE_CHECKING:
    from effir_dist.models.encoder import Encoder, EncoderSettings

NAMES = dict(zip(METRICS, ("nDCG@10", "Recall@100", "MRR@10"), strict=True))


def model_card(
    run: Run, record: dict[str, Any], encoder: Encoder, int8: dict[str, Any] | None = None, onnx: bool = False
) -> str:
    """The card as Markdown. record: the trial's; int8: what `onnx_model.measure_int8` gave."""
    base = model_name(run)
    source = "" if run.config["model"]["path"] else backbone(base).source
    head = {
        **({} if not source or source.startswith("package:") else {"base_model": source}),
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-transformers", "feature-extraction", "retrieval", "pruned", "effir_dist"],
    }
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {base}, pruned to {100 * record['parameters_fraction']:.0f} % ({run.name}, trial {record['trial']})",
        _summary(record, encoder, base),
        "## Scores\n\n" + _scores(run, record),
        "## Cost\n\n" + _costs(record, int8 or {}),
        "## Loading\n\n" + _loading(encoder, onnx),
        "## Training\n\n" + _training(run, record),
    ]
    return "\n\n".join(parts) + "\n"


def _summary(record: dict[str, Any], encoder: Encoder, base: str) -> str:
    settings, plan = encoder.settings, encoder.plan
    widths = mlp_widths(encoder.model_config, plan)
    gone = [
        f"{len(dropped)} of {len(widths)} {what} ({', '.join(map(str, dropped))})"
        for what, dropped in (("MLPs", plan.dropped_mlp), ("attentions", plan.dropped_attention))
        if dropped
    ]
    eos = ", with the end-of-text token appended by the tokenizer" if settings.append_eos else ""
    dimensions = f"{encoder.model_config['hidden_size']} dimensions{_cut(settings)}"
    return f"""A dense retriever: {base} without {" and ".join(gone) or "any layer less"}, fine-tuned after pruning.
Pruned means gone: {record["parameters"]:,} of {record["full_parameters"]:,} parameters are left (without LM head).

| block | {" | ".join(str(n) for n in range(len(widths)))} |
|---|{"---|" * len(widths)}
| MLP width | {" | ".join(map(str, widths))} |

Embeddings: {settings.pooling} pooling over {dimensions}, l2-normalised{eos}.
Queries are cut to {settings.max_query_length} tokens, documents to {settings.max_document_length}.
{_prompts(settings.query_prompt, settings.document_prompt)}
`plan.json` holds the plan in full."""


def _cut(settings: EncoderSettings) -> str:
    return f", of which the first {settings.dimension} are kept" if settings.dimension else ""


def _prompts(query: str, document: str) -> str:
    said = [f"Before a {kind} goes `{text!r}`." for kind, text in (("query", query), ("document", document)) if text]
    return " ".join(said) or "No prompts."


def _scores(run: Run, record: dict[str, Any]) -> str:
    """A table a data set and split, with 95 % bootstrap intervals over queries."""
    whole = unpruned(run.results())
    lines = ["| queries | data set | " + " | ".join(NAMES.values()) + " | nDCG@10 against the unpruned model |"]
    lines += ["|---|---|" + "---|" * (len(NAMES) + 1)]
    for label in SPLITS:
        own = _queries(run, record["trial"], label)
        other = _queries(run, whole["trial"], label) if whole and whole["trial"] != record["trial"] else {}
        for name in own:
            cells = [_text(mean_interval(sample(own[name], metric))) for metric in METRICS]
            lines.append(f"| {label} | {name} | {' | '.join(cells)} | {_against(own, other, name)} |")
    return (
        "\n".join(lines) + "\n\nWith 95 % bootstrap intervals over queries, paired for the difference. "
        "The search chose by its own queries, so its scores flatter; those on test were read once, at the end."
    )


def _queries(run: Run, trial: str, split: str) -> dict[str, dict[str, dict[str, float]]]:
    try:
        return read_queries(run.queries_path(trial, split))
    except FileNotFoundError:
        return {}


def _against(own: dict[str, Any], other: dict[str, Any], name: str) -> str:
    if name not in other or own[name].keys() != other[name].keys():
        return "–"
    return _text(paired(own[name], other[name])["ndcg_at_10"], "+")


def _text(interval: Interval, sign: str = "") -> str:
    return f"{interval.value:{sign}.4f} [{interval.low:{sign}.4f}, {interval.high:{sign}.4f}]"


def _costs(record: dict[str, Any], int8: dict[str, Any]) -> str:
    known = {
        "train_seconds": "s of training",
        "score_seconds": "s of scoring",
        "total_seconds": "s in all",
        "steps": "steps",
    }
    parts = [f"{record[name]:.0f} {text}" for name, text in known.items() if record.get(name) is not None]
    speeds = {k: v for k, v in record.items() if k.endswith("_per_second") and v}
    parts += [f"{v:,.0f} {k.removesuffix('_per_second').replace('_', ' ')} per second" for k, v in speeds.items()]
    ratios = {"query_speedup": "as fast as unpruned with a query", "document_speedup": "with a batch of documents"}
    parts += [f"{record[name]:.2f} times {text}" for name, text in ratios.items() if record.get(name)]
    if record.get("peak_memory_bytes"):
        parts.append(f"{record['peak_memory_bytes'] / 2**30:.1f} GiB of memory at most")
    text = f"{', '.join(parts)}, on {record.get('host', 'an unknown host')}."
    if not int8:
        return text
    rows = [
        f"| {name} | {row['float32']:.4f} | {row['int8']:.4f} | "
        f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}] |"
        for name, row in int8["ndcg_at_10"].items()
    ]
    sizes = " and ".join(f"{int8['bytes'][kind] / 1e6:.1f} MB ({kind})" for kind in ("float32", "int8"))
    return (
        f"{text}\n\nONNX with int8 weights against float32, nDCG@10 on the {int8['split']} queries; {sizes}:\n\n"
        "| data set | float32 | int8 | difference |\n|---|---|---|---|\n" + "\n".join(rows)
    )


def _loading(encoder: Encoder, onnx: bool) -> str:
    config, plan, settings = encoder.model_config, encoder.plan, encoder.settings
    plain = is_plain(config, plan)
    cut = f", the first {settings.dimension} numbers" if settings.dimension else ""
    trust = "" if plain else ", trust_remote_code=True"
    code = (
        "No code comes with it: the architecture is the family's own, with a smaller `intermediate_size`."
        if plain
        else f"`{CODE}.py` builds the family's architecture and takes away what was pruned. Where effir_dist is "
        "installed, `import effir_dist.auto` does the same and no remote code is needed."
    )
    blocks = [
        code,
        f"""```python
from sentence_transformers import SentenceTransformer
model = SentenceTransformer("FOLDER"{trust})
queries, documents = model.encode_query(["..."]), model.encode_document(["..."])
```""",
        f"""```python
from transformers import AutoModel, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("FOLDER"{trust})
model = AutoModel.from_pretrained("FOLDER"{trust})   # then {settings.pooling} pooling{cut} and l2 normalisation
```""",
        """```python
import effir_dist
effir_dist.load("FOLDER").encode(["..."], "query")   # or "document"
```""",
    ]
    if settings.append_eos:
        blocks.append(
            f'`AutoModelForCausalLM.from_pretrained("FOLDER"{trust}, attn_implementation="eager")` gives the same in '
            "`hidden_states[-1]`. A retriever has no LM head: the base's is not kept, the embeddings take its place, "
            "and the logits mean nothing."
        )
    if onnx:
        blocks.append(
            "`onnx/encoder.onnx` takes `input_ids` and `attention_mask`, int64 [batch, length] padded on the right, "
            "and gives the normalised `sentence_embedding`, float32 [batch, hidden]; the prompts are for you to put."
        )
    if not plain and block_configs(config, plan):
        blocks.append(
            "vLLM: `vllm serve FOLDER --trust-remote-code --runner pooling`; its DeciLMForCausalLM reads "
            "`block_configs` in config.json. That is checked against a transcription of that code; vLLM was not run."
        )
    return "\n\n".join(blocks)


def _training(run: Run, record: dict[str, Any]) -> str:
    config, extra = run.config, run.extra
    settings = {f"train.{k}": v for k, v in config["train"].items()} | record.get("suggested", {})
    data = [f"{d['name']} (sha256 {d['sha256'][:12]})" for d in extra.get("data", [])]
    versions = [f"{name} {version}" for name, version in extra.get("versions", {}).items()]
    rows = {
        "data": ", ".join(data) or ", ".join(config["data"]["paths"]),
        "splits": ", ".join(f"{k.split('_')[0]}: {v}" for k, v in config["data"].items() if k.endswith("_split")),
        "training": ", ".join(f"{k.removeprefix('train.')} {v}" for k, v in settings.items() if k.startswith("train.")),
        "LoRA": "merged into the weights" if settings.get("train.lora_rank") else "not used",
        "neurons chosen by": PruningPlan.from_dict(record["plan"]).ranking or "none were removed",
        "finished": record.get("finished", ""),
        "versions": ", ".join(versions),
        "exported by": f"effir_dist {__version__}",
    }
    table = "\n".join(f"| {name} | {text} |" for name, text in rows.items() if text)
    return f"| | |\n|---|---|\n{table}\n\n```\n{extra.get('command', '')}\n```"

"""README.md of an exported model: plan, scores with intervals, costs, how it was trained, and how to load it."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import yaml

from effir_dist import __version__
from effir_dist.core.measures import CLOCK, MEASURES, METRICS, QUALITY, SIZE, SIZE_SHARE
from effir_dist.core.values import Json
from effir_dist.evaluate.comparison import paired, sample
from effir_dist.evaluate.intervals import Interval, mean_interval
from effir_dist.export.model_folder import CODE, block_configs, is_plain
from effir_dist.models.families.base import dense_layers
from effir_dist.models.families.registry import backbone, family
from effir_dist.models.pooling import SEEN
from effir_dist.models.pruning import mlp_widths
from effir_dist.report.frames import frames_of
from effir_dist.report.page_data import model_name
from effir_dist.report.safety_text import card_text
from effir_dist.report.scored_on import data_of, left_out
from effir_dist.runs.objectives import compared_with, goal_of
from effir_dist.runs.records import TrialRecord
from effir_dist.runs.run_folder import SPLITS, Run, read_queries
from effir_dist.runs.sizes import FIELDS, SetSize, Sizes

if TYPE_CHECKING:
    from effir_dist.models.encoder import Encoder

LOCATION = re.compile(r"[^=,\[\]\"']*/([^=,\[\]\"']*)")
"""A path or address within an argument, up to its last name."""
VLLM_POOLINGS = ("cls", "last", "mean")
"""What vLLM knows of a folder's Pooling module. It loads Dense layers too, and normalises where there is Normalize."""
PROMPTS = ("model.query_prompt=", "model.document_prompt=")
"""Arguments with text, in which a slash is no path."""


def model_card(run: Run, record: TrialRecord, encoder: Encoder, int8: Json | None = None, onnx: bool = False) -> str:
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
        f"# {base}, pruned to {100 * record.values[SIZE_SHARE]:.0f} % ({run.name}, trial {record.trial})",
        _summary(record, encoder, base),
        "## Scores\n\n" + _scores(run, record),
        *filter(None, [card_text(frames_of(run).safety, record.trial)]),
        "## Cost\n\n" + _costs(run, record, int8 or {}),
        "## Loading\n\n" + _loading(encoder, onnx),
        "## Training\n\n" + _training(run, record),
    ]
    return "\n\n".join(parts) + "\n"


def _summary(record: TrialRecord, encoder: Encoder, base: str) -> str:
    settings, plan = encoder.settings, encoder.plan
    widths = mlp_widths(encoder.model_config, plan)
    gone = [
        f"{len(dropped)} of {len(widths)} {what} ({', '.join(map(str, dropped))})"
        for what, dropped in (("MLPs", plan.dropped_mlp), ("attentions", plan.dropped_attention))
        if dropped
    ]
    kept = f"without {' and '.join(gone)}" if gone else "with all its layers"
    norms = " Norms behind dropped layers stay." if plan.keep_norms else ""
    eos = " The tokenizer appends the end-of-text token." if settings.append_eos else ""
    compared = {"cosine": "cosine similarity", "dot": "inner product"}[settings.similarity]
    left, full = (MEASURES[SIZE].text(record.values[name]) for name in (SIZE, MEASURES[SIZE].unpruned))
    return f"""A dense retriever: {base} {kept}, fine-tuned after pruning.
What was pruned is removed: {left} of {full} {MEASURES[SIZE].label} are left (without LM head).{norms}

| block | {" | ".join(str(n) for n in range(len(widths)))} |
|---|{"---|" * len(widths)}
| MLP width | {" | ".join(map(str, widths))} |

Embeddings: {", ".join(_behind(encoder))}. They have {encoder.dimension} dimensions and are compared by {compared}.{eos}
Queries are cut to {settings.max_query_length} tokens, documents to {settings.max_document_length}.
{_prompts(settings.query_prompt, settings.document_prompt)}
`plan.json` holds the plan in full."""


def _behind(encoder: Encoder) -> list[str]:
    """What makes embeddings of the transformer's states, in words and in order."""
    settings, dense = encoder.settings, dense_layers(encoder.model_config)
    steps = {
        f"{settings.pooling.replace('_', ' ')} pooling{'' if settings.include_prompt else ' without the prompt'}": True,
        f"Dense layers to {' and '.join(str(layer.out_features) for layer in dense)} dimensions": dense,
        f"the first {settings.dimension} numbers": settings.dimension,
        "l2 normalisation": settings.unit_length,
    }
    return [step for step, there in steps.items() if there]


def _prompts(query: str, document: str) -> str:
    kinds = {"query": query, "document": document}
    said = [f"A {kind} is prefixed with `{text!r}`." for kind, text in kinds.items() if text]
    return " ".join(said) or "No prompts."


def _scores(run: Run, record: TrialRecord) -> str:
    """A table a data set and split, with 95 % bootstrap intervals over queries."""
    baseline = compared_with(run.results())
    labels = [MEASURES[name].label for name in METRICS]
    against = f"{MEASURES[QUALITY].label} against the unpruned model"
    heads = ["split", "data set", "queries", "documents", *labels, against]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for split in SPLITS:
        sizes = _sizes(run, record, split)
        own = _queries(run, record.trial, split)
        other = _queries(run, baseline.trial, split) if baseline and baseline.trial != record.trial else {}
        for name in own:
            cells = [split.replace("_", " "), name, *_counts(sizes.get(name), len(own[name]))]
            cells += [_text(mean_interval(sample(own[name], metric))) for metric in METRICS]
            lines.append(f"| {' | '.join(cells)} | {_against(own, other, name)} |")
    return (
        "\n".join(lines) + "\n\nWith 95 % bootstrap intervals over queries, paired for the difference. "
        "The search chose by its own queries, so the scores on these are optimistic. Test queries were read once, "
        "at the end. "
        "A score on a part of the documents is higher than one on all of them."
    )


def _sizes(run: Run, record: TrialRecord, split: str) -> Sizes:
    if split == "search":
        return record.sizes
    scores = run.split_scores(split).get(record.trial)
    return scores.sizes if scores else {}


def _counts(size: SetSize | None, scored: int) -> tuple[str, str]:
    """Queries and documents. scored: queries, where an older record does not say."""
    return size.texts if size else (f"{scored:,}", "not recorded")


def _queries(run: Run, trial: str, split: str) -> dict[str, dict[str, dict[str, float]]]:
    try:
        return read_queries(run.queries_path(trial, split))
    except FileNotFoundError:
        return {}


def _against(own: Json, other: Json, name: str) -> str:
    if name not in other or own[name].keys() != other[name].keys():
        return "–"
    return _text(paired(own[name], other[name])[QUALITY], "+")


def _text(interval: Interval, sign: str = "") -> str:
    return f"{interval.value:{sign}.4f} [{interval.low:{sign}.4f}, {interval.high:{sign}.4f}]"


def _costs(run: Run, record: TrialRecord, int8: Json) -> str:
    wanted = goal_of(run.config).costs
    shown = [m for m in MEASURES.values() if m.measured or m.source == CLOCK or (m.name in wanted and m.name != SIZE)]
    rows = [f"- {m.label}: {m.text(record.values[m.name])}" for m in shown if m.name in record.values]
    rows += [f"- training steps: {record.steps}"] if record.steps else []
    text = "\n".join([*rows, f"- measured on: {record.host or 'an unknown host'}"])
    return f"{text}\n\n{_int8_costs(int8)}" if int8 else text


def _int8_costs(int8: Json) -> str:
    """A table of what int8 weights cost in nDCG@10."""
    rows = [
        f"| {name} | {SetSize(*(row[count] for count in FIELDS))} | {row['float32']:.4f} | {row['int8']:.4f} | "
        f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}] |"
        for name, row in int8[QUALITY].items()
    ]
    sizes = " and ".join(f"{int8['bytes'][kind] / 1e6:.1f} MB ({kind})" for kind in ("float32", "int8"))
    return (
        f"ONNX with int8 weights against float32, {MEASURES[QUALITY].label} on the {int8['split']} queries; "
        f"{sizes}:\n\n"
        "| data set | of | float32 | int8 | difference |\n|---|---|---|---|---|\n" + "\n".join(rows)
    )


def _loading(encoder: Encoder, onnx: bool) -> str:
    plain = is_plain(encoder.model_config, encoder.plan)
    trust = "" if plain else ", trust_remote_code=True"
    return "\n\n".join([*_loading_code(encoder, plain, trust), *_loading_notes(encoder, plain, trust, onnx)])


def _loading_code(encoder: Encoder, plain: bool, trust: str) -> list[str]:
    """How to load it in each tool. trust: the option that its own code needs; plain: whether there is none."""
    code = (
        "No code comes with it: the architecture is the family's own, with a smaller `intermediate_size`."
        if plain
        else f"`{CODE}.py` builds the family's architecture and removes what was pruned. Where effir_dist is "
        "installed, `import effir_dist.auto` does the same and no remote code is needed."
    )
    return [
        code,
        f"""```python
from sentence_transformers import SentenceTransformer
model = SentenceTransformer("FOLDER"{trust})
queries, documents = model.encode_query(["..."]), model.encode_document(["..."])
```""",
        f"""```python
from transformers import AutoModel, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("FOLDER"{trust})
model = AutoModel.from_pretrained("FOLDER"{trust})   # then {", ".join(_behind(encoder))}
```""",
        """```python
import effir_dist
effir_dist.load("FOLDER").encode(["..."], "query")   # or "document"
```""",
    ]


def _loading_notes(encoder: Encoder, plain: bool, trust: str, onnx: bool) -> list[str]:
    """What else to know, of what applies to this model."""
    config, plan, settings = encoder.model_config, encoder.plan, encoder.settings
    notes = []
    if family(config).decoder:
        notes.append(
            f'`AutoModelForCausalLM.from_pretrained("FOLDER"{trust}, attn_implementation="eager")` gives the same in '
            "`hidden_states[-1]`. A retriever has no LM head: the base's is not kept, the embeddings take its place, "
            "and the logits mean nothing."
        )
    if config.get("is_causal") is False:
        notes.append(
            "Tokens see both sides: `is_causal` is false in config.json, which transformers reads from version 5.2 on. "
            "Earlier ones give other embeddings, without an error."
        )
    if onnx:
        notes.append(
            "`onnx/encoder.onnx` takes `input_ids` and `attention_mask`, int64 [batch, length] padded on the right, "
            f"and gives `sentence_embedding`, float32 [batch, {encoder.dimension}], by all these steps. Add the "
            f"prompts yourself{'' if settings.include_prompt else f'; their tokens have {SEEN} in the mask, others 1'}."
        )
    if settings.pooling not in VLLM_POOLINGS or not settings.include_prompt:
        notes.append(f"vLLM cannot: it has no {_behind(encoder)[0]}.")
    elif not plain and block_configs(config, plan):
        notes.append(
            "vLLM: `vllm serve FOLDER --trust-remote-code --runner pooling`; its DeciLMForCausalLM reads "
            "`block_configs` in config.json. Put the prompts before the texts yourself. A longer text than the model "
            "takes is refused, unless the request says `truncate_prompt_tokens=-1`."
        )
    return notes


def _by_role(run: Run, record: TrialRecord) -> dict[str, str]:
    """What the data sets were for, by name and content; runs of older versions trained on all that they scored."""
    data, both = run.extra.get("data", []), ("trained", "scored")
    held = run.split_scores("held_out").get(record.trial)
    named = {f"{role} on": [d for d in data if role in d.get("roles", both)] for role in both}
    named["held out"] = list(held.data) if held else []
    rows = {k: ", ".join(f"{d['name']} (sha256 {d['sha256'][:12]})" for d in of) for k, of in named.items()}
    return {**rows, "queries left out": "; ".join(left_out(run))}


def _training(run: Run, record: TrialRecord) -> str:
    config, extra = run.config, run.extra
    settings = {f"train.{k}": v for k, v in config["train"].items()} | dict(record.spec.suggested)
    data = extra.get("data")
    versions = [f"{name} {version}" for name, version in extra.get("versions", {}).items()]
    rows = {
        "data": "" if data else data_of(run),
        **_by_role(run, record),
        "splits": ", ".join(f"{k.split('_')[0]}: {v}" for k, v in config["data"].items() if k.endswith("_split")),
        "training": ", ".join(f"{k.removeprefix('train.')} {v}" for k, v in settings.items() if k.startswith("train.")),
        "LoRA": "merged into the weights" if settings.get("train.lora_rank") else "not used",
        "neurons chosen by": record.spec.plan.ranking or "none were removed",
        "finished": record.finished,
        "versions": ", ".join(versions),
        "exported by": f"effir_dist {__version__}",
    }
    table = "\n".join(f"| {name} | {text} |" for name, text in rows.items() if text)
    return f"| | |\n|---|---|\n{table}\n\n```\n{_command(run)}\n```"


def _command(run: Run) -> str:
    """The search's command line, with names in place of local folders and buckets: a card may be published."""
    command, hub_id = str(run.extra.get("command", "")), str(run.config["model"]["path"])
    try:
        arguments = shlex.split(command)
    except ValueError:  # an earlier version's, without quotes
        arguments = command.split()
    return shlex.join(_without_folders(argument, hub_id) for argument in arguments)


def _without_folders(argument: str, hub_id: str) -> str:
    is_hub_id = argument.rpartition("=")[2] == hub_id and not hub_id.startswith("/")  # folders are absolute there
    return argument if is_hub_id or argument.startswith(PROMPTS) else LOCATION.sub(r"\1", argument)

"""Load exported folders where effir_dist cannot be imported, as a stranger would: `python -I outside.py FILE OUT`.

FILE is JSON {"texts": [...], "folders": {name: {"path", "decoder", "pooling", "prompt"}}}; OUT becomes an .npz with
[N, D] embeddings under "name/how/side".
"""

import json
import pathlib
import sys


class Blocked:
    """No import of effir_dist, installed or not."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "effir_dist":
            raise ImportError(f"{name} is not to be had here")
        return


sys.meta_path.insert(0, Blocked())

import numpy as np  # noqa: E402
import torch  # noqa: E402
from sentence_transformers import SentenceTransformer  # noqa: E402
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer  # noqa: E402


def last(hidden, mask):
    """[B, T, D], [B, T] -> [B, D]: the last real token."""
    places = (mask * torch.arange(mask.shape[1])).argmax(1)
    return hidden[torch.arange(len(hidden)), places]


def mean(hidden, mask):
    """[B, T, D], [B, T] -> [B, D]."""
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def by_hand(model, tokenizer, texts, pooling, causal):
    """[N, D] of transformers' own classes."""
    out = []
    for start in range(0, len(texts), 32):
        batch = tokenizer(texts[start : start + 32], padding=True, truncation=True, return_tensors="pt")
        batch.pop("token_type_ids", None)
        with torch.no_grad():
            result = model(**batch, output_hidden_states=True)
        hidden = result.hidden_states[-1] if causal else result.last_hidden_state
        out.append({"last": last, "mean": mean}[pooling](hidden, batch["attention_mask"]))
    return torch.cat(out).numpy()


def main():
    given = json.loads(pathlib.Path(sys.argv[1]).read_text())
    texts, found = given["texts"], {}
    for name, folder in given["folders"].items():
        path = folder["path"]
        model = SentenceTransformer(path, trust_remote_code=True)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
        classes = {"AutoModel": AutoModel, "AutoModelForCausalLM": AutoModelForCausalLM}
        loaded = {
            how: auto.from_pretrained(path, trust_remote_code=True, attn_implementation="eager").eval()
            for how, auto in classes.items()
            if folder["decoder"] or auto is AutoModel
        }
        for side in ("right", "left"):
            model.tokenizer.padding_side = tokenizer.padding_side = side
            found[f"{name}/query/{side}"] = model.encode_query(texts)
            found[f"{name}/document/{side}"] = model.encode_document(texts)
            for how, own in loaded.items():
                prompted = [folder["prompt"] + text for text in texts]
                found[f"{name}/{how}/{side}"] = by_hand(own, tokenizer, prompted, folder["pooling"], how != "AutoModel")
    np.savez(sys.argv[2], **found)


if __name__ == "__main__":
    main()

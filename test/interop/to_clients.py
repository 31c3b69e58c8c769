"""Adapters trained here, in PEFT and transformers; models merged here, in transformers.

Logits of both sides agree to 1e-4 in float32. Needs torch, transformers, peft.
"""
import json
import os
import shutil

import torch
from peft import PeftModel
from safetensors.torch import load_file

from checks import beamlora, check, done, make_base, near, path, train, write_ids
from clients import load_base, logits_differ, our_logits

METHODS = {
    "lora": [], "rslora": [], "dora": [],
    "adalora": ["--target-rank", 2, "--tinit", 2, "--tfinal", 6],
    "beamlora": ["--period", 8], "beamlora+dora": ["--period", 8],
    # pruned ranks go: modules end with ranks of their own
    "beamlora, ranks removed": ["--period", 8, "--expand", "none", "--p-start", 0.6,
                                "--score-lr-ratio", 3],
}


def ranks_of(folder):
    """The ranks that modules have in an adapter's file."""
    tensors = load_file(os.path.join(folder, "adapter_model.safetensors"))
    return {value.shape[0] for name, value in tensors.items() if ".lora_A" in name}


def peft(folder, base):
    return PeftModel.from_pretrained(load_base(base), folder)


def adapters(base):
    for name, flags in METHODS.items():
        method = name.split(",", maxsplit=1)[0]
        run = train(base, "run " + name, "--method", method, "--rank", 6, *flags)
        ours = our_logits(base, "--adapter", run)
        bare = our_logits(base)
        check(f"{name}: it changes the logits",
              (ours["logits"] - bare["logits"]).abs().max() > 0.1)
        near(f"{name}: the run folder in PEFT", logits_differ(peft(run, base), ours), 1e-4)
        for encoding in ("peft", "peft-compact"):
            out = path(f"{name} {encoding}")
            beamlora("export", run, "--format", encoding, "--out", out)
            near(f"{name}: --format {encoding} in PEFT",
                 logits_differ(peft(out, base), ours), 1e-4)
        if method == "adalora" or "removed" in name:
            check(f"{name}: compact has ranks that differ", len(ranks_of(out)) > 1,
                  sorted(ranks_of(out)))
        beamlora("export", run, "--format", "merged", "--out", path(name + " merged"))
        near(f"{name}: --format merged in transformers",
             logits_differ(load_base(path(name + " merged")), ours), 1e-4)
        merged_by_peft(name, run, base)


def merged_by_peft(name, run, base):
    """PEFT's own merging of our adapter against ours."""
    theirs = peft(run, base).merge_and_unload().state_dict()
    ours = load_file(path(name + " merged", "model.safetensors"))
    near(f"{name}: merged weights are PEFT's",
         max(float((theirs[key] - value).abs().max()) for key, value in ours.items()), 1e-5)


def save(base, name, dtype, size="1GB"):
    """The base in another type or in shards, as transformers writes it."""
    load_base(base).to(dtype).save_pretrained(path(name), max_shard_size=size)
    return path(name)


def other_bases(base):
    for name, dtype, size in (("sharded", torch.float32, "20KB"),
                              ("bf16", torch.bfloat16, "1GB"),
                              ("f16", torch.float16, "1GB"),
                              ("bf16 sharded", torch.bfloat16, "20KB")):
        model = save(base, name, dtype, size)
        shards = [f for f in os.listdir(model) if f.endswith(".safetensors")]
        check(f"{name}: written by transformers",
              (len(shards) > 1) == ("sharded" in name), f"{len(shards)} files")
        near(f"{name}: the bare model", logits_differ(load_base(model), our_logits(model)),
             1e-4)
        run = train(model, "run " + name, "--method", "beamlora", "--rank", 4)
        near(f"{name}: the adapter in PEFT",
             logits_differ(peft(run, model), our_logits(model, "--adapter", run)), 1e-4)
        out = path(name + " merged")
        beamlora("export", run, "--format", "merged", "--out", out)
        check(f"{name}: merged has the base's files", set(shards) <= set(os.listdir(out)))
        check(f"{name}: and its type", {v.dtype for f in shards for v in
                                       load_file(os.path.join(out, f)).values()} == {dtype})
        near(f"{name}: the merged model", logits_differ(load_base(out), our_logits(out)),
             1e-4)


def tied(config):
    """One matrix as embedding and head, one group of keys, llama3's rotary scaling."""
    model = make_base("tied", **config)
    near("tied: the bare model", logits_differ(load_base(model), our_logits(model)), 1e-4)
    run = train(model, "run tied", "--method", "lora", "--targets", "q_proj,v_proj")
    ours = our_logits(model, "--adapter", run)
    near("tied: the adapter in PEFT", logits_differ(peft(run, model), ours), 1e-4)
    beamlora("export", run, "--format", "merged", "--out", path("tied merged"))
    near("tied: the merged model", logits_differ(load_base(path("tied merged")), ours), 1e-4)


def full(base):
    run = train(base, "run full", "--method", "full", steps=10)
    near("full fine-tuning: the run folder in transformers",
         logits_differ(load_base(run), our_logits(run)), 1e-4)


def wrong_scale(base):
    """A check that cannot fail is none: with another alpha the logits must part."""
    shutil.copytree(path("lora peft"), path("wrong"))
    name = path("wrong", "adapter_config.json")
    with open(name, encoding="utf-8") as file:
        config = json.load(file)
    config["lora_alpha"] *= 2
    with open(name, "w", encoding="utf-8") as file:
        json.dump(config, file)
    ours = our_logits(base, "--adapter", path("run lora"))
    check("an adapter of twice the scale is noticed",
          logits_differ(peft(path("wrong"), base), ours) > 1e-2)


def main():
    write_ids()
    base = make_base()
    near("the bare model", logits_differ(load_base(base), our_logits(base)), 1e-4)
    adapters(base)
    wrong_scale(base)
    other_bases(base)
    tied({"tie_word_embeddings": True, "num_key_value_heads": 1,
          "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                           "high_freq_factor": 4.0,
                           "original_max_position_embeddings": 32}})
    full(base)
    done()


if __name__ == "__main__":
    main()

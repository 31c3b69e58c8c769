"""Adapters trained by PEFT go on here: `train --init-adapter` begins with PEFT's loss, and
its steps on the same batches are PyTorch's. Checkpoints of the published BeamLoRA too, held
against its layer written down for PyTorch. Needs torch, transformers, peft.
"""
import json
import math
import os

import torch
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from checks import (BATCH, CONTEXT, beamlora, check, done, evaluate, make_base, near, path,
                    train, write_ids)
from clients import (TARGETS, TRAINING, eval_loss, load_base, logits_differ, our_logits,
                     train_steps)

STEPS = 20
PREFIX = "base_model.model."


def go_on(base, adapter, name, *flags):
    """A run of ours that begins with the adapter: loss before it, and of each step."""
    out = path("run " + name)
    report = json.loads(beamlora(
        "train", "--model", base, "--data", path("train.u16"), "--eval-data",
        path("eval.u16"), "--context", CONTEXT, "--batch", BATCH, "--steps", STEPS,
        "--init-adapter", adapter, "--out", out, "--json", *TRAINING, *flags).splitlines()[-1])
    with open(os.path.join(out, "log.jsonl"), encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    return report["eval_loss_before"], [line["loss"] for line in lines if "loss" in line]


def largest(ours, theirs):
    return max(abs(a - b) for a, b in zip(ours, theirs, strict=True))


def reload(base, adapter):
    return PeftModel.from_pretrained(load_base(base), adapter, is_trainable=True)


# ----- PEFT -----

LORAS = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "lora with ranks that differ": {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 7},
                                    "alpha_pattern": {"v_proj": 3}},
    "rslora with ranks that differ": {"use_rslora": True, "rank_pattern": {"down_proj": 1}},
    "dora of two projections": {"use_dora": True, "target_modules": ["q_proj", "o_proj"]},
}


def trained_by_peft(base):
    for name, settings in LORAS.items():
        model = get_peft_model(load_base(base), LoraConfig(
            **{"r": 4, "lora_alpha": 6, "target_modules": TARGETS, "task_type": "CAUSAL_LM"}
            | settings))
        train_steps(model, 10)
        folder = path("peft " + name)
        model.save_pretrained(folder)
        near(f"{name} of PEFT: logits",
             logits_differ(reload(base, folder), our_logits(base, "--adapter", folder)), 1e-4)
        before, losses = go_on(base, folder, name, "--method", name.split()[0])
        near(f"{name} of PEFT: loss where it begins here",
             abs(before - eval_loss(reload(base, folder))), 1e-5)
        near(f"{name} of PEFT: losses of {STEPS} steps",
             largest(losses, train_steps(reload(base, folder), STEPS)), 1e-4)
        back_in_peft(base, name)


def back_in_peft(base, name):
    """What was trained on here is an adapter for PEFT again, in every encoding."""
    run = path("run " + name)
    ours = our_logits(base, "--adapter", run)
    near(f"{name} of PEFT: trained on, and back in PEFT",
         logits_differ(PeftModel.from_pretrained(load_base(base), run), ours), 1e-4)
    for encoding in ("peft", "peft-compact"):
        out = path(f"{name} {encoding}")
        beamlora("export", run, "--format", encoding, "--out", out)
        near(f"{name} of PEFT: and by export --format {encoding}",
             logits_differ(PeftModel.from_pretrained(load_base(base), out), ours), 1e-4)


def as_lora(folder, out):
    """PEFT's AdaLoRA adapter as its plain LoRA: E in A, its divisor in lora_alpha."""
    with open(os.path.join(folder, "adapter_config.json"), encoding="utf-8") as file:
        config = json.load(file)
    tensors, ranks = {}, {}
    theirs = load_file(os.path.join(folder, "adapter_model.safetensors"))
    for name, e in theirs.items():
        if name.endswith(".lora_E") and len(e) > 0:
            stem = name.removesuffix(".lora_E")
            tensors[stem + ".lora_A.weight"] = e * theirs[stem + ".lora_A"]
            tensors[stem + ".lora_B.weight"] = theirs[stem + ".lora_B"]
            ranks[stem.removeprefix(PREFIX)] = len(e)
    scale = config["lora_alpha"] / (config["init_r"] + 1e-5)
    lora = LoraConfig(r=1, target_modules=list(ranks), task_type="CAUSAL_LM",
                      rank_pattern=ranks,
                      alpha_pattern={name: scale * rank for name, rank in ranks.items()})
    lora.save_pretrained(out)
    save_file(tensors, os.path.join(out, "adapter_model.safetensors"))


def adalora(base):
    """Ranks that PEFT has masked are not in its file; what is left goes on as a LoRA."""
    model = get_peft_model(load_base(base), AdaLoraConfig(
        init_r=6, target_r=2, tinit=2, tfinal=4, deltaT=1, total_step=STEPS, lora_alpha=12,
        target_modules=TARGETS, task_type="CAUSAL_LM"))
    for name, steps in (("adalora half way", 10), ("adalora", STEPS - 10)):
        train_steps(model, steps, lambda step, first=10 * (name == "adalora"):
                    model.base_model.update_and_allocate(first + step + 1))
        folder = path("peft " + name)
        model.save_pretrained(folder)
        theirs = PeftModel.from_pretrained(load_base(base), folder)
        near(f"{name} of PEFT: logits",
             logits_differ(theirs, our_logits(base, "--adapter", folder)), 1e-4)
        before, losses = go_on(base, folder, name, "--method", "lora")
        near(f"{name} of PEFT: loss where it begins here",
             abs(before - eval_loss(theirs)), 1e-5)
        as_lora(folder, path("plain " + name))
        near(f"{name} of PEFT: losses of {STEPS} steps as a LoRA", largest(
            losses, train_steps(reload(base, path("plain " + name)), STEPS)), 1e-4)
        back_in_peft(base, name)
    ranks = {value.shape[0] for key, value in
             load_file(path("peft adalora", "adapter_model.safetensors")).items()
             if key.endswith("lora_A")}
    check("adalora of PEFT: its ranks differ", len(ranks) > 1, sorted(ranks))


# ----- the published BeamLoRA -----

class Published(nn.Module):
    """The published layer: y = base(x) + c B (A x * softmax(gate / tau) * r)."""

    def __init__(self, base, tensors, module, scaling, temperature):
        super().__init__()
        self.base, self.scaling, self.temperature = base, scaling, temperature
        self.a, self.b, self.gate = (
            nn.Parameter(tensors[PREFIX + module + ending].clone())
            for ending in (".lora_A.weight", ".lora_B.weight", ".lora_gate"))

    def forward(self, x):
        g = torch.softmax(self.gate / self.temperature, dim=-1) * self.gate.shape[-1]
        return self.base(x) + (x @ self.a.T * g) @ self.b.T * self.scaling


def of_published(base, folder, temperature):
    """The base with such layers, from a checkpoint by its documented names."""
    tensors = load_file(os.path.join(folder, "adapter_model.safetensors"))
    with open(os.path.join(folder, "adapter_config.json"), encoding="utf-8") as file:
        config = json.load(file)
    model = load_base(base).requires_grad_(False)
    for name, layer in list(model.named_modules()):
        if PREFIX + name + ".lora_gate" in tensors:
            root = math.sqrt(config["r"]) if config["use_rslora"] else config["r"]
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, Published(
                layer, tensors, name, config["lora_alpha"] / root, temperature))
    return model


def published(base):
    run = train(base, "run ours", "--method", "beamlora", "--rank", 4, "--period", 8,
                "--temperature", 0.2, "--score-lr-ratio", 3)
    folder = path("published")
    beamlora("export", run, "--format", "published", "--out", folder)
    gates = [v for k, v in load_file(path("published", "adapter_model.safetensors")).items()
             if k.endswith(".lora_gate")]
    check("published: its scores are not all equal", len(gates) == 14 and
          all(gate.shape == (1, 4) for gate in gates) and
          max(float(gate.max() - gate.min()) for gate in gates) > 0.05)
    near("published: the layer's formula gives our logits", logits_differ(
        of_published(base, folder, 0.2), our_logits(base, "--adapter", run)), 1e-4)
    check("another temperature gives others", logits_differ(
        of_published(base, folder, 0.05), our_logits(base, "--adapter", run)) > 1e-3)
    # as that code writes it: no temperature in the file
    foreign = path("published elsewhere")
    os.makedirs(foreign)
    save_file(load_file(os.path.join(folder, "adapter_model.safetensors")),
              os.path.join(foreign, "adapter_model.safetensors"))
    os.link(os.path.join(folder, "adapter_config.json"),
            os.path.join(foreign, "adapter_config.json"))
    model = of_published(base, foreign, 0.2)
    before, losses = go_on(base, foreign, "published", "--method", "beamlora",
                           "--no-reallocation", "--temperature", 0.2)
    near("published: loss where it begins here", abs(before - eval_loss(model)), 1e-5)
    near(f"published: losses of {STEPS} steps, scores trained too",
         largest(losses, train_steps(model, STEPS)), 1e-4)
    near("published: loss without our note of the temperature", abs(
        evaluate(base, "--adapter", foreign, "--score-temperature", 0.2)["loss"] - before),
        1e-6)


def main():
    write_ids()
    base = make_base()
    near("loss of the bare model", abs(evaluate(base)["loss"] - eval_loss(load_base(base))),
         1e-5)
    trained_by_peft(base)
    adalora(base)
    published(base)
    done()


if __name__ == "__main__":
    main()

"""
Record trainings of PEFT's own AdaLoRA for test/adalora_replay (see README.md).

    python3 record.py DIRECTORY          needs torch, peft and safetensors

Three linear layers side by side, each with inputs and targets of its own, PEFT's AdaLoRA
model around them with its penalty in the loss, AdamW, PEFT's own rank allocator: all in
float64. Steps are counted from 1, as update_and_allocate's budget means them.
"""
import sys
from types import SimpleNamespace

import torch
from peft import AdaLoraConfig, __version__ as peft_version, get_peft_model
from safetensors.torch import save_file

DIMS = [(6, 5), (9, 4), (3, 7)]  # in, out
BATCH = 4


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.config = {"model_type": "custom"}
        self.layers = torch.nn.ModuleList(
            torch.nn.Linear(i, o, bias=False) for i, o in DIMS)

    def forward(self, inputs, targets):
        outputs = [layer(x) for layer, x in zip(self.layers, inputs)]
        loss = sum(0.5 * ((y - t) ** 2).sum() / BATCH for y, t in zip(outputs, targets))
        return SimpleNamespace(loss=loss, task=loss.detach().clone(), outputs=outputs)


def record(path, rank, target, alpha, total, tinit, tfinal, delta, weight, clip=0.0,
           decay=0.0, lr=0.05, beta1=0.85, beta2=0.85, loud=(1, 1, 1), steps=None, seed=1):
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.float64)
    config = AdaLoraConfig(init_r=rank, target_r=target, lora_alpha=alpha, tinit=tinit,
                           tfinal=tfinal, deltaT=delta, beta1=beta1, beta2=beta2,
                           orth_reg_weight=weight, total_step=total,
                           target_modules=["layers.0", "layers.1", "layers.2"])
    peft = get_peft_model(Model(), config, autocast_adapter_dtype=False)
    base = peft.base_model
    layers = base.model.layers
    modules = [{"A": l.lora_A["default"], "B": l.lora_B["default"],
                "E": l.lora_E["default"]} for l in layers]
    prefix = "base_model.model.layers"
    peft.train()
    tensors = {}
    parameters = [p for m in modules for p in m.values()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=decay)
    allocator = base.rankallocator
    names = {id(p): n for n, p in base.model.named_parameters()}

    def keep(k, detailed):
        for i, module in enumerate(modules):
            for letter, p in module.items():
                at = f"m{i}.{{}}{letter}{k}"
                tensors[at.format("")] = p.detach().clone()
                if detailed:
                    state = optimizer.state[p]
                    tensors[at.format("m")] = state["exp_avg"].clone()
                    tensors[at.format("v")] = state["exp_avg_sq"].clone()
                    zero = torch.zeros_like(p)
                    name = names[id(p)]
                    tensors[at.format("s")] = allocator.exp_avg_ipt.get(name, zero).clone()
                    tensors[at.format("u")] = allocator.exp_avg_unc.get(name, zero).clone()

    for i, layer in enumerate(layers):
        tensors[f"m{i}.W0"] = layer.base_layer.weight.detach().clone()
    keep(0, False)
    goals = [torch.randn(o, i) for i, o in DIMS]
    steps = total if steps is None else steps
    ranks = []
    for t in range(steps):
        inputs = [torch.randn(BATCH, i, requires_grad=True) for i, _ in DIMS]
        targets = [s * x.detach() @ g.T for x, g, s in zip(inputs, goals, loud)]
        optimizer.zero_grad()
        result = base(inputs, targets)  # as PEFT's task models do; adds the penalty
        result.loss.backward()
        tensors[f"penalty{t}"] = (result.loss.detach() - result.task).reshape(1)
        for i, module in enumerate(modules):
            tensors.update({f"m{i}.X{t}": inputs[i].detach().clone(),
                            f"m{i}.T{t}": targets[i].clone(),
                            f"m{i}.Y{t}": result.outputs[i].detach().clone(),
                            f"m{i}.dX{t}": inputs[i].grad.clone()})
            for letter, p in module.items():
                if t % 2 == 0:
                    tensors[f"m{i}.d{letter}{t}"] = p.grad.clone()
        if clip > 0:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        before = config.rank_pattern
        base.update_and_allocate(t + 1)
        keep(t + 1, t % 5 == 4 or t + 1 == total - tfinal)
        if config.rank_pattern is not before:
            for i in range(len(modules)):
                pattern = config.rank_pattern[f"layers.{i}.lora_E.default"]
                tensors[f"m{i}.kept{t + 1}"] = torch.tensor(pattern, dtype=torch.uint8)
            ranks.append([sum(config.rank_pattern[f"layers.{i}.lora_E.default"])
                          for i in range(len(modules))])
    for i, layer in enumerate(layers):
        tensors[f"m{i}.delta"] = layer.get_delta_weight("default").detach().clone()
    print(path, "ranks", ranks[0], "...", ranks[-1])
    metadata = {"format": "pt", "peft": peft_version, "torch": torch.__version__,
                "dims": [list(d) for d in DIMS], "batch": BATCH, "init_r": rank,
                "target_r": target, "lora_alpha": alpha, "total_step": total,
                "tinit": tinit, "tfinal": tfinal, "deltaT": delta, "beta1": beta1,
                "beta2": beta2, "orth_reg_weight": weight, "clip": clip,
                "weight_decay": decay, "lr": lr, "steps": steps, "seed": seed}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path,
              {key: str(value) for key, value in metadata.items()})


def main():
    folder = sys.argv[1]
    record(f"{folder}/peft_schedule.safetensors", 4, 2, 8, 26, 4, 6, 3, 0.5, steps=30)
    record(f"{folder}/peft_clipped.safetensors", 5, 2, 5, 30, 2, 8, 1, 0.1, clip=0.7,
           decay=0.1, beta1=0.7, beta2=0.9, seed=2)
    record(f"{folder}/peft_empty_module.safetensors", 3, 1, 0, 28, 0, 4, 2, 0.0,
           loud=(1, 1e-4, 2), seed=3)


main()

"""
Record trainings of PEFT's own DoRA layer for test/dora_replay (see README.md).

    python3 record.py DIRECTORY          needs torch, peft and safetensors

A linear layer with a bias, an adapter on it with use_dora, steps of AdamW on random
inputs X and output gradients dY, all in float64.
"""
import sys

import torch
from peft import LoraConfig, __version__ as peft_version, get_peft_model
from safetensors.torch import save_file

ONES = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
DRAW_ADAPTER, DRAW_DROPOUT = 1, 3  # as in lib/doors.h


def mix(z):
    z &= ONES
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & ONES
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & ONES
    return z ^ (z >> 31)


def random_key(seed, purpose, a, b):
    key = mix(seed + GOLDEN)
    key = mix(key + GOLDEN * purpose)
    key = mix(key + GOLDEN * (a + 1))
    return mix(key + GOLDEN * (b + 1))


def dropout_mask(seed, step, rows, cols, q):
    """The library's mask of adapter 0 for the key `step`: 0 or 1 / (1 - q)."""
    key = random_key(random_key(seed, DRAW_ADAPTER, 0, 0), DRAW_DROPOUT, step, 0)
    limit = int(q * 2**32)
    mask = torch.zeros(rows * cols, dtype=torch.float64)
    for i in range(rows * cols):
        bits = mix(key + GOLDEN * (i // 2 + 1))
        half = bits >> 32 if i % 2 else bits & 0xFFFFFFFF
        mask[i] = 1 / (1 - q) if half >= limit else 0
    return mask.reshape(rows, cols)


class Mask(torch.nn.Module):
    """In the place of nn.Dropout: PEFT asks only whether it is nn.Identity."""

    def forward(self, x):
        return x * self.mask


class Model(torch.nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.layer = torch.nn.Linear(inputs, outputs)

    def forward(self, x):
        return self.layer(x)


def record(path, inputs, outputs, rank, alpha, batch, steps, dropout=0.0, rslora=False,
           decay=0.0, start="peft", seed=1, lr=0.01):
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.float64)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, use_dora=True,
                        use_rslora=rslora, target_modules=["layer"])
    model = get_peft_model(Model(inputs, outputs), config, autocast_adapter_dtype=False)
    layer = model.base_model.model.layer
    a = layer.lora_A["default"].weight
    b = layer.lora_B["default"].weight
    magnitude = layer.lora_magnitude_vector["default"].weight
    with torch.no_grad():
        if start == "random":
            b.normal_()
            magnitude.mul_(torch.rand_like(magnitude) + 0.5)
    model.train()
    if dropout > 0:
        layer.lora_dropout["default"] = Mask()

    tensors = {"W0": layer.base_layer.weight.detach().clone(),
               "bias": layer.base_layer.bias.detach().clone()}
    optimizer = torch.optim.AdamW([a, b, magnitude], lr=lr, weight_decay=decay)

    def keep(k):
        for name, p in (("A", a), ("B", b), ("mag", magnitude)):
            tensors[f"{name}{k}"] = p.detach().clone()
            if p in optimizer.state:
                tensors[f"m{name}{k}"] = optimizer.state[p]["exp_avg"].clone()
                tensors[f"v{name}{k}"] = optimizer.state[p]["exp_avg_sq"].clone()

    keep(0)
    for t in range(steps):
        x = torch.randn(batch, inputs, requires_grad=True)
        dy = torch.randn(batch, outputs)
        if dropout > 0:
            layer.lora_dropout["default"].mask = dropout_mask(seed, t, batch, inputs,
                                                              dropout)
        optimizer.zero_grad()
        y = model(x)
        y.backward(dy)
        tensors.update({f"X{t}": x.detach(), f"dY{t}": dy, f"Y{t}": y.detach().clone(),
                        f"dX{t}": x.grad.clone(), f"dA{t}": a.grad.clone(),
                        f"dB{t}": b.grad.clone(), f"dmag{t}": magnitude.grad.clone()})
        optimizer.step()
        keep(t + 1)
    layer.merge()
    tensors["merged"] = layer.base_layer.weight.detach().clone()
    metadata = {"format": "pt", "peft": peft_version, "torch": torch.__version__,
                "rank": rank, "alpha": alpha, "steps": steps, "seed": seed, "lr": lr,
                "dropout": dropout, "rslora": int(rslora), "weight_decay": decay}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path,
              {key: str(value) for key, value in metadata.items()})


def main():
    folder = sys.argv[1]
    record(f"{folder}/peft_start.safetensors", 10, 7, 4, 8, 6, 8)
    record(f"{folder}/peft_random.safetensors", 9, 12, 3, 5, 7, 8, start="random",
           decay=0.1, rslora=True, seed=2)
    record(f"{folder}/peft_dropout.safetensors", 8, 6, 2, 4, 5, 8, start="random",
           dropout=0.3, seed=3)


if __name__ == "__main__":
    main()

"""The peer's side of the comparison by layer, as `bench serve` is ours. Reads lines of JSON: a
layer to make, which is answered with null, or null to run it once more, forward and backward;
answers with seconds.

What is timed is the adapter's own work: PEFT's layer on a frozen base whose product costs
nothing, since its forward hands out a matrix that is there. It takes dy and gives the gradients
of x and of the adapter."""
import json
import math
import os
import sys
import time

import torch
from peft import LoraConfig, get_peft_model

# seconds: of runs that are not timed, in which caches fill and threads find their cores; and that
# an answer is the mean over, at least
WARM, LEAST = 0.01, 0.02


class Base(torch.nn.Linear):
    """A frozen layer that has done its work already."""
    def forward(self, x):
        return self.result


class Published(torch.nn.Module):
    """The published BeamLoRA layer: y = base + c ((x A^T) * r softmax(s / tau)) B^T."""
    def __init__(self, base, rank):
        super().__init__()
        self.base_layer, self.rank = base, rank
        self.a = torch.nn.Parameter(torch.randn(rank, base.in_features) * 0.02)
        self.b = torch.nn.Parameter(torch.randn(base.out_features, rank) * 0.02)
        self.s = torch.nn.Parameter(torch.zeros(rank))

    def forward(self, x):
        g = self.rank * torch.softmax(self.s / 0.05, 0)
        return self.base_layer(x) + 2 * (((x @ self.a.T) * g) @ self.b.T)


def make(kind, inputs, outputs, n, rank):
    base = Base(inputs, outputs, bias=False)
    base.weight.requires_grad = False
    base.result = torch.zeros(n, outputs)
    if kind == "beamlora":
        layer = Published(base, rank)
    else:
        holder = torch.nn.Module()
        holder.layer = base
        layer = get_peft_model(holder, LoraConfig(
            r=rank, lora_alpha=2 * rank, target_modules=["layer"],
            use_dora=kind == "dora")).base_model.model.layer
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.02)
    trained = [p for p in layer.parameters() if p.requires_grad]
    x = torch.randn(n, inputs, requires_grad=True)
    dy = torch.randn(n, outputs)
    x.grad = torch.zeros(n, inputs)  # the base's part, to which the adapter's is added

    def run():
        for p in trained:
            p.grad = None
        layer(x).backward(dy)
    return run


def timed(run, times):
    start = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - start) / times


def main():
    torch.set_num_threads(int(os.environ["PEERS_THREADS"]))
    torch.manual_seed(0)
    run, times = None, 1
    for line in sys.stdin:
        layer = json.loads(line)
        if layer is not None:
            run = None  # its memory first
            run = make(**layer)
            run()
            times = max(1, math.ceil(LEAST / timed(run, 1)))
            print("null", flush=True)
            continue
        start = time.perf_counter()
        while time.perf_counter() - start < WARM:
            run()
        print(timed(run, times), flush=True)


main()

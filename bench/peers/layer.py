"""One side of the comparison by layer: `layer.py torch|beamlora`. Reads lines of JSON: a layer to
make, or null to run it once more, forward and backward; answers with seconds.

What is timed is the adapter's own work. Torch's side runs PEFT's layer on a frozen base
whose product costs nothing: its forward hands out a matrix that is there. libbeamlora adds to
such a matrix. Both take dy and give the gradients of x and of the adapter."""
import json
import os
import sys
import time

import torch

THREADS = int(os.environ["PEERS_THREADS"])
LEAST = 0.004  # seconds that one answer is the mean over


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


def torch_side(kind, inputs, outputs, n, rank):
    from peft import LoraConfig, get_peft_model
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

    def run():
        for p in trained + [x]:
            p.grad = None
        layer(x).backward(dy)
    return run


def beamlora_side(kind, inputs, outputs, n, rank):
    import ctypes
    import ctypes_one_layer as bl
    opt = bl.default_options()
    opt.method = 1 if kind == "beamlora" else 0
    opt.dora = kind == "dora"
    opt.rank, opt.alpha, opt.reallocation = rank, 2.0 * rank, 0
    weight = torch.randn(outputs, inputs) * 0.02
    opt.base, opt.ldbase = weight.data_ptr(), inputs
    adapter, tape, group = ctypes.c_void_p(), ctypes.c_void_p(), None
    bl.check(bl.adapter_create(adapter, inputs, outputs, opt))
    bl.check(bl.tape_create(tape, adapter, n, 1))
    group = bl.declare("bl_adapter_get_group", ctypes.c_void_p, ctypes.c_void_p)(adapter)
    discard = bl.declare("bl_group_discard_gradients", ctypes.c_int, ctypes.c_void_p)
    x, y = torch.randn(n, inputs), torch.zeros(n, outputs)
    dx, dy = torch.zeros(n, inputs), torch.randn(n, outputs)

    def run(keep=(weight, x, y, dx, dy)):
        bl.check(discard(group))
        bl.check(bl.forward(adapter, tape, n, y.data_ptr(), outputs, x.data_ptr(), inputs, -1))
        bl.check(bl.backward(adapter, tape, n, dx.data_ptr(), inputs, dy.data_ptr(), outputs,
                             x.data_ptr(), inputs))

    def free():
        bl.tape_free(tape)
        bl.adapter_free(adapter)
    run.free = free
    return run


def main():
    side = {"torch": torch_side, "beamlora": beamlora_side}[sys.argv[1]]
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    run = None
    for line in sys.stdin:
        layer = json.loads(line)
        if layer is not None:
            getattr(run, "free", lambda: None)()
            run = side(**layer)
            run()
            start = time.perf_counter()
            run()
            times = max(1, int(LEAST / (time.perf_counter() - start)))
            print("null", flush=True)
            continue
        run()  # the other side has had the caches
        start = time.perf_counter()
        for _ in range(times):
            run()
        print((time.perf_counter() - start) / times, flush=True)


main()

"""docs/peers.md on stdout, from the results of run.py in the folder that is given."""
import json
import os
import sys

HEAD = """# Against PyTorch and PEFT

This page is made by `make bench-peers-docs` from the results of `make bench-peers`, which
installs PyTorch, transformers and PEFT below `build/` and takes half an hour. `PEERS_FLAGS`
goes to `bench/peers/run.py`: `--pairs`, `--trainings`, `--steps`, `--threads`, `--rank`. Results
are in `build/peers/results/peers.json`.

## What is compared

**Layers.** The adapter's own work, forward and backward, as after a step: it adds to an output of
the base that is there already, and to the base's part of the gradient of x, and gives the
gradients of its parameters. The base's own products, which are the same sgemm on both sides,
are in neither. The peer is PEFT's layer in PyTorch on a frozen base that hands out such an
output (`bench/peers/layer.py`); ours is a C program with a `parallel_for`, as a trainer would
have one (`build/bench/bench serve`). The third peer is the formula of the published BeamLoRA
layer in PyTorch. No dropout, equal threads.

PyTorch takes fresh memory for every result, and from 32 MB on glibc's malloc gives it back to
the system each time: for large layers more than half of its time is page faults. So it runs twice:
as it comes, and, in the columns *kept*, under `MALLOC_MMAP_MAX_=0` and a large
`MALLOC_TRIM_THRESHOLD_`, with which there are next to none.

The floor is what memory traffic or operations take at least, measured in the same rounds
([performance.md](performance.md#what-is-compared)): its distance from PEFT is how much faster
than PEFT a layer can be.

The sides are processes of their own that take turns, each once the threads of the one before are
asleep: every answer is the mean over at least 20 ms, after 10 ms that do not count.

**Trainings.** `beamlora train` against transformers with PEFT and `torch.optim.AdamW`: a Llama of
110M parameters with random weights, adapters on all seven projections, clipping at 1, the same
windows' size; *kept* is PEFT with that malloc again. tokens/s of PEFT are without its first step, those of `beamlora` with it. Memory
is VmHWM of the whole process, weights included; both map the model's file.

Ratios are medians over pairs of runs that followed each other, with the 95 % interval that the
order of the pairs gives (the whole range where there are fewer than six).
"""


def main():
    with open(os.path.join(sys.argv[1], "peers.txt")) as file:
        text = file.read()
    with open(os.path.join(sys.argv[1], "peers.json")) as file:
        found = json.load(file)
    print(HEAD)
    print("## Results\n\n```text\n" + text + "```")
    if found["trainings"]:
        print("\nThe products with frozen weights and the head are the same sgemm on both sides, "
              "and most of\nthe time of both. What they would take at the peak of sgemm, with nothing "
              "else beside them,\nis the last line: no trainer with this sgemm is faster.")


main()

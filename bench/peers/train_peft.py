"""One training by transformers and PEFT, as `beamlora train` would do it: prints a line of
JSON with tokens per second, from the second step on, and the process's peak memory."""
import argparse
import array
import json
import time

import torch
import transformers
from peft import LoraConfig, get_peft_model

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def peak_bytes():
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024


def main():
    parser = argparse.ArgumentParser()
    for name in "model", "data":
        parser.add_argument("--" + name, required=True)
    for name in "steps", "batch", "context", "rank", "threads":
        parser.add_argument("--" + name, type=int, required=True)
    parser.add_argument("--dora", action="store_true")
    parser.add_argument("--checkpoint-activations", action="store_true")
    a = parser.parse_args()

    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(
        r=a.rank, lora_alpha=2 * a.rank, lora_dropout=0, target_modules=PROJECTIONS,
        use_dora=a.dora, task_type="CAUSAL_LM"))
    model.config.use_cache = False
    if a.checkpoint_activations:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable()
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0)

    ids = array.array("H")
    with open(a.data, "rb") as file:
        ids.frombytes(file.read())
    window = a.context + 1
    losses = []
    for step in range(a.steps):
        if step == 1:
            start = time.perf_counter()
        first = [(step * a.batch + b) * window % (len(ids) - window) for b in range(a.batch)]
        batch = torch.tensor([list(ids[i:i + window]) for i in first])
        logits = model(input_ids=batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        del logits, loss
    seconds = time.perf_counter() - start
    print(json.dumps({
        "tokens_per_second": (a.steps - 1) * a.batch * a.context / seconds,
        "peak_bytes": peak_bytes(),
        "trainable": sum(p.numel() for p in trained),
        "train_loss": losses[-1]}))


main()

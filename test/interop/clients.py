"""What the checks with PyTorch share: models of transformers, loss, logits, training steps
as `beamlora train` makes them."""
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM
from transformers.utils import logging

from checks import BATCH, CONTEXT, beamlora, path, read_ids

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

logging.disable_progress_bar()
torch.manual_seed(11)
torch.set_num_threads(1)


def load_base(folder):
    """In float32, whatever the file has."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def windows(name, count):
    """Windows [count, CONTEXT + 1], one after the other: inputs and what follows."""
    ids = read_ids(name)
    return torch.tensor([ids[i * CONTEXT:(i + 1) * CONTEXT + 1] for i in range(count)])


def loss_of(model, rows):
    logits = model(input_ids=rows[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def eval_loss(model):
    """`beamlora eval` on eval.u16, whose length makes all of its windows full ones."""
    with torch.no_grad():
        return float(loss_of(model.eval(), windows("eval.u16", 32)))


def our_logits(model, *flags):
    """Logits of the first windows of eval.u16 by `beamlora eval`."""
    beamlora("eval", "--model", model, "--data", path("eval.u16"), "--context", CONTEXT,
             "--batch", BATCH, "--dump-logits", path("logits.safetensors"), *flags)
    return load_file(path("logits.safetensors"))


def logits_differ(model, ours):
    """Largest difference of any logit."""
    with torch.no_grad():
        theirs = model.eval()(input_ids=ours["input_ids"]).logits
    return (theirs.flatten(0, 1) - ours["logits"]).abs().max()


TRAINING = ["--order", "sequential", "--lr-schedule", "constant", "--warmup", 0,
            "--clip", 1, "--lr", "1e-2"]


def train_steps(model, steps, after=None):
    """Losses of so many steps on train.u16 with TRAINING's settings, by PyTorch."""
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-2, betas=(0.9, 0.999), eps=1e-8,
                                  weight_decay=0)
    rows, losses = windows("train.u16", steps * BATCH), []
    model.train()
    for step in range(steps):
        loss = loss_of(model, rows[step * BATCH:(step + 1) * BATCH])
        losses.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        if after is not None:
            after(step)
        optimizer.zero_grad()
    return losses

"""What the checks of this folder share: counting, running the program, a small base model
and ids for it.

A script is called as SCRIPT BEAMLORA WORK: the program, and an empty folder of its own.
It prints one line for each check and at the end "N passed, N failed", which is what
test/scripts/run.sh counts.
"""
import json
import os
import random
import struct
import subprocess
import sys

VOCAB, CONTEXT, BATCH = 96, 16, 4

# grouped heads, and a head size that is not hidden / heads
CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "vocab_size": VOCAB, "max_position_embeddings": 256, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "initializer_range": 0.2, "tie_word_embeddings": False,
    "attention_bias": False, "mlp_bias": False, "bos_token_id": 1, "eos_token_id": 2,
}

program, work = sys.argv[1], sys.argv[2]
passed = failed = 0


def check(name, good, detail=""):
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    print(f"{'ok   ' if good else 'FAIL '} {name}{': ' + str(detail) if detail else ''}",
          flush=True)


def near(name, difference, most):
    """Fails on NaN too."""
    check(name, float(difference) <= most, f"{float(difference):.1e}, at most {most:.0e}")


def done():
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed != 0)


def path(*parts):
    return os.path.join(work, *parts)


def beamlora(*arguments, refused=False):
    """Run the program; what it prints, or its line of error where it must refuse."""
    result = subprocess.run([program, *map(str, arguments)], capture_output=True,
                            text=True, check=False)
    if (result.returncode == 1) != refused:
        sys.exit(f"beamlora {' '.join(map(str, arguments))}: status {result.returncode}\n"
                 f"{result.stderr}")
    return result.stderr if refused else result.stdout


def evaluate(model, *flags, data="eval.u16"):
    """The object that `eval --json` prints."""
    return json.loads(beamlora("eval", "--model", model, "--data", path(data), "--context",
                               CONTEXT, "--batch", BATCH, "--json", *flags))


def train(model, out, *flags, steps=30):
    """A run that has learnt something; its folder."""
    beamlora("train", "--model", model, "--data", path("train.u16"), "--context", CONTEXT,
             "--batch", BATCH, "--steps", steps, "--lr", 1e-2, "--out", path(out), *flags)
    return path(out)


def write_ids():
    """Ids that follow from those before them most of the time: train.u16 and eval.u16."""
    draw = random.Random(5)
    for name, count in (("train.u16", 4001), ("eval.u16", 513)):
        ids = [7]
        while len(ids) < count:
            ids.append((5 * ids[-1] + 11) % VOCAB if draw.random() < 0.8
                       else draw.randrange(VOCAB))
        with open(path(name), "wb") as file:
            file.write(struct.pack(f"<{count}H", *ids))


def read_ids(name):
    with open(path(name), "rb") as file:
        data = file.read()
    return list(struct.unpack(f"<{len(data) // 2}H", data))


def make_base(name="base", **changes):
    """A model with random weights, float32, by the program; its folder."""
    with open(path(name + ".json"), "w", encoding="utf-8") as file:
        json.dump(CONFIG | changes, file)
    beamlora("init", "--config", path(name + ".json"), "--out", path(name))
    return path(name)

"""libbeamlora and beamlora against PyTorch with PEFT, in turns: `make bench-peers`.

Writes peers.json and peers.txt to --out. Ratios are of medians' pairs: the median over pairs of
the peer's time to ours, with the 95 % interval of that median from the order of the pairs."""
import argparse
import json
import math
import os
import platform
import random
import array
import statistics
import subprocess
import sys
import time
from importlib.metadata import version

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))

SHAPES = [  # in, out
    ("Llama-2-7B q", 4096, 4096), ("Llama-2-7B gate", 4096, 11008),
    ("Llama-2-7B down", 11008, 4096), ("Llama-3-8B k", 4096, 1024),
    ("Llama-3-8B gate", 4096, 14336), ("110M q", 768, 768), ("110M gate", 768, 2048),
    ("110M down", 2048, 768)]
ROWS = [16, 64, 512, 2048]
KINDS = {"lora": "PEFT's LoRA", "dora": "PEFT's DoRA", "beamlora": "published BeamLoRA"}
MODEL = {  # about 110M parameters
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 768,
    "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12,
    "num_key_value_heads": 12, "vocab_size": 32000, "max_position_embeddings": 1024,
    "tie_word_embeddings": True, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2}


def median_interval(values):
    """The median and the order statistics that hold it with 95 %."""
    ordered, n = sorted(values), len(values)
    below, k = 0.5 ** n, 0
    while k + 1 < n // 2 and below + math.comb(n, k + 1) * 0.5 ** n <= 0.025:
        k += 1
        below += math.comb(n, k) * 0.5 ** n
    return statistics.median(ordered), ordered[k], ordered[n - 1 - k]


def environment(threads):
    env = dict(os.environ, PEERS_THREADS=str(threads), OMP_NUM_THREADS=str(threads),
               OPENBLAS_NUM_THREADS=str(threads), HF_HUB_OFFLINE="1",
               BEAMLORA_LIBRARY=os.path.join(ROOT, "build", "libbeamlora.so"))
    return env


def cpu(field):
    with open("/proc/cpuinfo") as info:
        for line in info:
            if line.split(":")[0].strip() == field:
                return line.split(":")[1].strip()
    return ""


def choose_kernels(env):
    """As the program does: an OpenBLAS that does not know the processor is told."""
    probe = subprocess.run(
        [sys.executable, "-c", "import ctypes, os; l = ctypes.CDLL(os.environ['BEAMLORA_LIBRARY']);"
         "f = getattr(l, 'openblas_get_corename', None); f and setattr(f, 'restype',"
         " ctypes.c_char_p); print(f().decode() if f else 'another CBLAS')"],
        env=env, capture_output=True, text=True, check=True).stdout.strip()
    if probe == "Prescott" and "OPENBLAS_CORETYPE" not in env and "avx2" in cpu("flags"):
        env["OPENBLAS_CORETYPE"] = "SkylakeX" if "avx512vl" in cpu("flags") else "Haswell"
        return env["OPENBLAS_CORETYPE"] + ", set by OPENBLAS_CORETYPE"
    return probe


# ----- layers -----

# Seconds after which the threads of a side that has answered sleep: torch's wait for work for some
# milliseconds first, and told to wait less (GOMP_SPINCOUNT, OMP_WAIT_POLICY) torch is slower.
ASLEEP = 0.03
# Results of large layers are fresh memory from the system each time, and most of torch's time is
# then spent in page faults. This makes malloc keep what it has.
KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}


class Side:
    def __init__(self, command, env):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=env)

    def ask(self, question):
        time.sleep(ASLEEP)
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def serve(a, threads):
    return [os.path.join(ROOT, "build", "bench", "bench"), "serve", "--threads", str(threads),
            "--out", a.out]


def start_sides(a, env, threads):
    peer, own = [sys.executable, os.path.join(HERE, "layer.py")], serve(a, threads)
    return {"peer": Side(peer, env), "kept": Side(peer, {**env, **KEEP}),
            "own": Side(own, env), "floor": Side(own, env)}


def compare_layers(a, env, threads):
    every = start_sides(a, env, threads)
    results = []
    for kind in KINDS:
        sides = {side: every[side] for side in every if side != "floor" or kind == "lora"}
        for name, inputs, outputs in SHAPES:
            for n in ROWS:
                layer = {"kind": kind, "inputs": inputs, "outputs": outputs, "n": n,
                         "rank": a.rank}
                seconds = {side: [] for side in sides}
                for side in sides:
                    sides[side].ask(dict(layer, kind="floor") if side == "floor" else layer)
                for i in range(a.pairs):
                    for side in list(sides)[::-1 if i % 2 else 1]:
                        seconds[side].append(sides[side].ask(None))
                result = dict(layer, shape=name)
                for side in sides:
                    result[side + "_seconds"] = statistics.median(seconds[side])
                for prefix, side in ("", "peer"), ("kept_", "kept"):
                    result.update(zip((prefix + "ratio", prefix + "low", prefix + "high"),
                                      median_interval([p / o for p, o in zip(
                                          seconds[side], seconds["own"])])))
                results.append(result)
                print(f"{kind:9} {name:16} n {n:5}  {result['ratio']:6.2f} "
                      f"{result['kept_ratio']:6.2f}", file=sys.stderr)
    for side in every.values():
        side.end()
    return results


# ----- trainings -----

def make_model(out, env):
    program = os.path.join(ROOT, "build", "beamlora")
    model, data = os.path.join(out, "model-110m"), os.path.join(out, "ids.u16")
    if not os.path.exists(os.path.join(model, "config.json")):
        with open(os.path.join(out, "110m.json"), "w") as file:
            json.dump(MODEL, file)
        subprocess.run([program, "init", "--config", file.name, "--out", model], check=True,
                       env=env, stdout=subprocess.DEVNULL)
    draw = random.Random(1)
    with open(data, "wb") as file:
        array.array("H", (draw.randrange(32000) for _ in range(200000))).tofile(file)
    return program, model, data


def compare_trainings(a, env, threads):
    program, model, data = make_model(a.out, env)
    wrap = os.environ.get("WRAP", "").split()
    both = ["--model", model, "--data", data, "--steps", str(a.steps), "--batch", "4",
            "--context", "512", "--rank", str(a.rank), "--threads", str(threads)]
    results = []
    for method, extra, keep in (("lora", [], {}), ("lora", [], KEEP), ("dora", [], {}),
                                ("lora", ["--checkpoint-activations"], {})):
        peer = [sys.executable, os.path.join(HERE, "train_peft.py"), *both, *extra]
        own = [program, "train", *both, *extra, "--method", method, "--json"]
        peer += ["--dora"] if method == "dora" else []
        pairs = []
        for _ in range(a.trainings):
            answers = []
            for command, more in (peer, keep), (own, {}):
                text = subprocess.run(wrap + command, env={**env, **more},
                                      capture_output=True, text=True, check=True).stdout
                answers.append(json.loads(text.strip().splitlines()[-1]))
            pairs.append(answers)
            print(method, *extra, [round(x["tokens_per_second"]) for x in answers],
                  file=sys.stderr)
        speed = median_interval([o["tokens_per_second"] / p["tokens_per_second"]
                                 for p, o in pairs])
        results.append({
            "method": method, "recomputed": bool(extra), "kept": bool(keep),
            "steps": a.steps,
            "peer_tokens_per_second": statistics.median(
                p["tokens_per_second"] for p, _ in pairs),
            "own_tokens_per_second": statistics.median(
                o["tokens_per_second"] for _, o in pairs),
            "ratio": speed[0], "low": speed[1], "high": speed[2],
            "peer_bytes": max(p["peak_bytes"] for p, _ in pairs),
            "own_bytes": max(o["memory_peak"] for _, o in pairs)})
    return results


def most_tokens(a, env, threads):
    """tokens/s that the products with frozen weights, four operations a weight and token, would
    take at the peak of sgemm: that of a floor which memory has no part in."""
    width, n = 768, 2048
    side = Side(serve(a, threads), env)
    side.ask({"kind": "floor", "inputs": width, "outputs": width, "n": n, "rank": width})
    second = statistics.median(side.ask(None) for _ in range(15))
    side.end()
    peak = 6.0 * n * width * 2 * width / second
    m = MODEL
    weights = m["vocab_size"] * m["hidden_size"] + m["num_hidden_layers"] * m["hidden_size"] * (
        4 * m["hidden_size"] + 3 * m["intermediate_size"])
    return {"peak_flops": peak, "most_tokens_per_second": peak / (4 * weights)}


# ----- report -----

def mean(results, kind, field):
    return math.exp(statistics.fmean(math.log(r[field]) for r in results
                                     if r["kind"] == kind))


def floor_mean(results, side):
    return math.exp(statistics.fmean(math.log(r[side + "_seconds"] / r["floor_seconds"])
                                     for r in results if "floor_seconds" in r))


def training_name(r):
    return (r["method"] + (", recomputed" if r["recomputed"] else "")
            + (", kept" if r["kept"] else ""))


def report(found):
    lines = [f"{found['processor']}, {found['threads']} threads, f32, rank {found['rank']}",
             f"Python {found['python']}, torch {found['torch']}, transformers "
             f"{found['transformers']}, peft {found['peft']}; OpenBLAS kernels: "
             f"{found['kernels']}", ""]
    if found["layers"]:
        lines += ["forward + backward of an adapter, ms; kept: the peer with a malloc that keeps "
                  "memory", "ratios: the peer's time to ours",
                  f"{'':9} {'layer':16} {'in':>6} {'out':>6} {'n':>5} {'peer':>9} {'kept':>9} "
                  f"{'ours':>9} {'ratio':>7}  {'95 %':16} {'kept':>6}  95 %"]
        lines += [f"{r['kind']:9} {r['shape']:16} {r['inputs']:6} {r['outputs']:6} {r['n']:5} "
                  f"{1e3 * r['peer_seconds']:9.3f} {1e3 * r['kept_seconds']:9.3f} "
                  f"{1e3 * r['own_seconds']:9.3f} {r['ratio']:7.2f}  "
                  f"{r['low']:6.2f} to {r['high']:6.2f} {r['kept_ratio']:6.2f}  "
                  f"{r['kept_low']:.2f} to {r['kept_high']:.2f}" for r in found["layers"]]
        lines += [f"geometric mean against {KINDS[k]}: {mean(found['layers'], k, 'ratio'):.2f}, "
                  f"kept {mean(found['layers'], k, 'kept_ratio'):.2f}" for k in KINDS]
        lines += [f"PEFT's LoRA over the floor: {floor_mean(found['layers'], 'peer'):.2f}, "
                  f"kept {floor_mean(found['layers'], 'kept'):.2f}; ours: "
                  f"{floor_mean(found['layers'], 'own'):.2f}", ""]
    if found["trainings"]:
        lines += ["training of 110M parameters, 4 x 512 ids a step; memory: VmHWM, MiB",
                  f"{'':26} {'tokens/s':>9} {'ours':>6} {'ratio':>6}  {'95 %':14}"
                  f" {'memory':>7} {'ours':>6} {'share':>6}"]
        lines += [f"{training_name(r):26} "
                  f"{r['peer_tokens_per_second']:9.0f} {r['own_tokens_per_second']:6.0f} "
                  f"{r['ratio']:6.2f}  {r['low']:5.2f} to {r['high']:5.2f} "
                  f"{r['peer_bytes'] / 2**20:8.0f} {r['own_bytes'] / 2**20:6.0f} "
                  f"{r['own_bytes'] / r['peer_bytes']:6.2f}" for r in found["trainings"]]
        lines += [f"peak of sgemm {found['peak_flops'] / 1e9:.0f} GFLOP/s: the products with "
                  f"frozen weights alone allow {found['most_tokens_per_second']:.0f} tokens/s"]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="folder for the results")
    parser.add_argument("--threads", type=int, default=0, help="0: one for each processor")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=15, help="of a layer; 0: no layers")
    parser.add_argument("--trainings", type=int, default=5, help="pairs; 0: none")
    parser.add_argument("--steps", type=int, default=8, help="of a training")
    a = parser.parse_args()
    os.makedirs(a.out, exist_ok=True)
    threads = a.threads or len(os.sched_getaffinity(0))
    env = environment(threads)
    found = {"processor": cpu("model name"), "threads": threads, "rank": a.rank,
             "python": platform.python_version(), "kernels": choose_kernels(env)}
    found.update({name: version(name) for name in ("torch", "transformers", "peft")})
    path = os.path.join(a.out, "peers.json")
    before = json.load(open(path)) if os.path.exists(path) else {}
    found["layers"] = (compare_layers(a, env, threads) if a.pairs
                       else before.get("layers", []))
    found["trainings"] = (compare_trainings(a, env, threads) if a.trainings
                          else before.get("trainings", []))
    if found["trainings"]:
        found.update(most_tokens(a, env, threads))
    with open(path, "w") as file:
        json.dump(found, file, indent=1)
        file.write("\n")
    text = report(found)
    with open(os.path.join(a.out, "peers.txt"), "w") as file:
        file.write(text)
    print(text, end="")


if __name__ == "__main__":
    main()

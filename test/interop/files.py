"""The safetensors and gguf packages and this project read each other's files.

Needs safetensors, gguf and numpy. BEAMLORA_IO_LIBRARY names libbeamlora-io.so; it is
called for files that the program has no use for.
"""
import ctypes
import json
import os
import random
import shutil
import struct

import gguf
import numpy
import safetensors
from safetensors.numpy import load_file, save, save_file

from checks import (BATCH, CONFIG, CONTEXT, VOCAB, beamlora, check, done, evaluate,
                    make_base, near, path, train, write_ids)

PREFIX = "base_model.model."
io = ctypes.CDLL(os.environ["BEAMLORA_IO_LIBRARY"])
io.bl_io_last_error.restype = ctypes.c_char_p
io.bl_safetensors_get_count.restype = ctypes.c_int64
io.bl_safetensors_find.restype = ctypes.c_int64
io.bl_safetensors_get_metadata.restype = ctypes.c_char_p


class TensorInfo(ctypes.Structure):
    """bl_tensor_info"""
    _fields_ = [("name", ctypes.c_char_p), ("dtype_name", ctypes.c_char_p),
                ("data", ctypes.c_void_p), ("bytes", ctypes.c_size_t),
                ("elements", ctypes.c_int64), ("shape", ctypes.c_int64 * 8),
                ("dims", ctypes.c_int32), ("dtype", ctypes.c_int32),
                ("reserved", ctypes.c_int64 * 4)]


def read_ours(data):
    """{name: (dtype, shape, bytes)} as libbeamlora-io reads the bytes; None: refused."""
    file, out = ctypes.c_void_p(), {}
    code = io.bl_safetensors_open_memory(ctypes.byref(file), data,
                                         ctypes.c_size_t(len(data)))
    if code != 0:
        return None
    for i in range(io.bl_safetensors_get_count(file)):
        info = TensorInfo()
        io.bl_safetensors_get_tensor(file, ctypes.c_int64(i), ctypes.byref(info))
        out[info.name.decode()] = (info.dtype_name.decode(), list(info.shape)[:info.dims],
                                   ctypes.string_at(info.data, info.bytes))
    io.bl_safetensors_close(file)
    return out


def read_theirs(data):
    """The same as the package reads them."""
    try:
        return {name: (tensor["dtype"], list(tensor["shape"]), bytes(tensor["data"]))
                for name, tensor in safetensors.deserialize(data)}
    except (safetensors.SafetensorError, OverflowError, ValueError):
        return None


def read_file(name):
    with open(name, "rb") as file:
        return file.read()


def of_header(header, data=b""):
    header = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(header)) + header + data


def to_float(dtype, shape, data):
    if dtype == "BF16":
        bits = numpy.frombuffer(data, "<u2").astype(numpy.uint32) << 16
        return bits.view(numpy.float32).reshape(shape)
    return numpy.frombuffer(data, {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]) \
        .astype(numpy.float64).reshape(shape)


def load(name):
    """Tensors of any float type as numbers, read by the package."""
    return {name: to_float(*tensor) for name, tensor in read_theirs(read_file(name)).items()
            if tensor[0] in ("BF16", "F16", "F32", "F64")}


# ----- safetensors: the vectors, and files of the package's own making -----

PLAIN = '{"test":{"dtype":"I32","shape":[2,2],"data_offsets":[0,16]}}'


def one(shape, begin, end):
    return f'{{"test":{{"dtype":"I32","shape":{shape},"data_offsets":[{begin},{end}]}}}}'


def vectors():
    """Files that both must read, and that both must refuse."""
    many = ",".join(f'"t{i}":{{"dtype":"I32","shape":[2,2],"data_offsets":[0,16]}}'
                    for i in range(10))
    good = {
        "plain": of_header(PLAIN, bytes(16)),
        "a single element": of_header(one("[]", 0, 4), bytes(4)),
        "white space behind": of_header("{}\r \t\n"),
        "white space before": of_header("\t\n{}\r "),
        "no elements": of_header(one("[2,0]", 0, 0)),
        "nothing but a header": of_header("{}"),
        "metadata": of_header('{"__metadata__":{"a":"b"}}'),
        "fields that nobody knows": of_header(PLAIN.replace('"dtype"', '"x":[1],"dtype"'),
                                              bytes(16)),
        "names of many kinds": of_header(PLAIN.replace("test", "../a b\\u00e9\\n\\\\"),
                                         bytes(16)),
    }
    bad = {
        "bytes too many": of_header(PLAIN, bytes(17)),
        "bytes too few": of_header(PLAIN, bytes(14)),
        "a huge length": bytes([0x3c, 0, 0, 0, 0, 255, 255, 255]),
        "nothing": b"",
        "a length alone": struct.pack("<Q", 60),
        "not UTF-8": of_header(b"\xff"),
        "not JSON": of_header("{"),
        "an empty header": of_header(""),
        "a header that is a list": of_header("[]"),
        "a span that is not the shape's": of_header(one("[2,2]", 0, 4), bytes(4)),
        "elements beyond 64 bits": of_header(one("[2,18446744073709551614]", 0, 16),
                                             bytes(16)),
        "bits beyond 64 bits": of_header(one("[2,9223372036854775807]", 0, 16), bytes(16)),
        "ten tensors in one place": of_header("{" + many + "}", bytes(16)),
        "a length that is patched": struct.pack("<Q", 1000) + of_header(PLAIN)[8:],
        "offsets turned round": of_header(one("[2,2]", 16, 0), bytes(16)),
        "a hole": of_header(one("[2,2]", 4, 20), bytes(20)),
        "one offset": of_header(PLAIN.replace("0,16", "16"), bytes(16)),
        "a negative extent": of_header(one("[-2,-2]", 0, 16), bytes(16)),
        "a fraction": of_header(one("[2.5,2]", 0, 16), bytes(16)),
        "an unknown type": of_header(PLAIN.replace("I32", "X32"), bytes(16)),
        "half a byte": of_header(PLAIN.replace("I32", "F4").replace("2,2", "3"), bytes(2)),
        "metadata that is no string": of_header('{"__metadata__":{"a":1}}'),
    }
    for name, data in good.items():
        ours, theirs = read_ours(data), read_theirs(data)
        check(f"vector, {name}: both read the same", ours is not None and ours == theirs)
    for name, data in bad.items():
        check(f"vector, {name}: both refuse it",
              read_ours(data) is None and read_theirs(data) is None)
    check("a repeated name is refused here",
          read_ours(of_header(PLAIN[:-1] + "," + PLAIN[1:], bytes(16))) is None)


def of_the_package():
    """Every type that the package can write, and changed bytes of such a file."""
    arrays = {f"of {kind}": numpy.arange(12).reshape(3, 4).astype(kind)
              for kind in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1",
                           "?")}
    arrays |= {"none": numpy.zeros((3, 0, 2), "f4"), "one": numpy.array(2.5, "f4"),
               "deep": numpy.zeros((1, 2, 1, 2, 1, 2, 1, 2), "f2"), "": numpy.ones(1, "f4")}
    data = save(arrays, {"key": "value, with \"quotes\" and \u00e9"})
    ours = read_ours(data)
    check("the package's file: all types and shapes",
          ours == read_theirs(data) and len(ours) == len(arrays))

    # what is read here is read there, and alike; here some things more are refused
    small = save({"a": numpy.arange(6, dtype="f4").reshape(2, 3), "b": numpy.ones(4, "f2")},
                 {"format": "pt"})
    draw, taken, differ = random.Random(3), 0, []
    for _ in range(20000):
        bytes_ = bytearray(small)
        for _ in range(draw.randrange(1, 4)):
            place = draw.randrange(draw.choice((10, 140, len(bytes_))))
            bytes_[place] = draw.choice((draw.randrange(256), *b'0123456789{}[],:" '))
        ours = read_ours(bytes(bytes_))
        if ours is not None:
            taken += 1
            differ += [bytes(bytes_)] if read_theirs(bytes(bytes_)) != ours else []
    check(f"20000 damaged files: the {taken} that are read here read there, and alike",
          taken > 500 and not differ, differ[:1])


# ----- models, adapters, checkpoints -----

def base_by_the_package(base):
    """The base written anew by the package, in shards and in 16 bits."""
    tensors = load_file(os.path.join(base, "model.safetensors"))
    want = evaluate(base)["loss"]
    names = sorted(tensors)

    def folder(name):
        os.makedirs(path(name))
        shutil.copy(os.path.join(base, "config.json"), path(name))
        return path(name)

    save_file(tensors, os.path.join(folder("plain"), "model.safetensors"), {"format": "pt"})
    near("a model written by the package: its loss",
         abs(evaluate(path("plain"))["loss"] - want), 0)
    out, index = folder("sharded"), {}
    for i in range(3):
        shard = f"model-{i + 1:05}-of-00003.safetensors"
        save_file({name: tensors[name] for name in names[i::3]}, os.path.join(out, shard),
                  {"format": "pt"})
        index |= {name: shard for name in names[i::3]}
    with open(os.path.join(out, "model.safetensors.index.json"), "w",
              encoding="utf-8") as file:
        json.dump({"metadata": {}, "weight_map": index}, file)
    near("in three shards: its loss", abs(evaluate(out)["loss"] - want), 0)
    save_file({name: tensor.astype("f2") for name, tensor in tensors.items()},
              os.path.join(folder("half"), "model.safetensors"), {"format": "pt"})
    near("in float16: its loss", abs(evaluate(path("half"))["loss"] - want), 1e-3)

    # numpy has no such type
    brain = {name: (tensor.view(numpy.uint32) >> 16).astype("<u2")
             for name, tensor in tensors.items()}
    with open(os.path.join(folder("brain"), "model.safetensors"), "wb") as file:
        file.write(safetensors.serialize(
            {name: safetensors.TensorSpec(dtype="bfloat16", shape=bits.shape,
                                          data_ptr=bits.ctypes.data, data_len=bits.nbytes)
             for name, bits in brain.items()}, {"format": "pt"}))
    cut = {name: (tensor.view(numpy.uint32) & 0xffff0000).view(numpy.float32)
           for name, tensor in tensors.items()}
    save_file(cut, os.path.join(folder("cut"), "model.safetensors"), {"format": "pt"})
    near("in bfloat16: that of the same values in float32",
         abs(evaluate(path("brain"))["loss"] - evaluate(path("cut"))["loss"]), 1e-6)


def modules_of(tensors):
    return sorted({name[len(PREFIX):].rsplit(".lora_", 1)[0] for name in tensors})


def product(tensors, module):
    a = tensors[PREFIX + module + ".lora_A.weight"].astype("f8")
    b = tensors[PREFIX + module + ".lora_B.weight"].astype("f8")
    return b @ a


def importance(score, temperature):
    weight = numpy.exp((score - score.max()) / temperature)
    return score.size * weight / weight.sum()


def checkpoint(run, adapter):
    """The training checkpoint opens, and holds what was folded."""
    name = os.path.join(run, "checkpoint.safetensors")
    state = load_file(name)
    with safetensors.safe_open(name, "np") as file:
        metadata = file.metadata()
    check("checkpoint: metadata", metadata["format"] == "beamlora-checkpoint" and
          metadata["step"] == "30", metadata["format"] + ", step " + metadata["step"])
    worst = 0
    for module in modules_of(adapter):
        g = importance(state[module + ".s"].astype("f8").ravel(),
                       state["group.temperature"][0])
        a = state[module + ".c"][0] * g[:, None] * state[module + ".A"]
        want = adapter[PREFIX + module + ".lora_A.weight"]
        worst = max(worst, numpy.abs(a - want).max() / numpy.abs(want).max(),
                    numpy.abs(state[module + ".B"].T -
                              adapter[PREFIX + module + ".lora_B.weight"]).max())
    near("checkpoint: A and B are the adapter's, with g of its scores", worst, 1e-6)
    check("checkpoint: moments and history beside them",
          all(state[f"{modules_of(adapter)[0]}.{part}"].any()
              for part in ("A.m", "A.v", "B.m", "B.v", "s.m", "s.v", "A.history.0")))


def adapters(base, run):
    ours = os.path.join(run, "adapter_model.safetensors")
    adapter = load(ours)
    check("adapter: pairs of all modules", len(adapter) == 28 and
          read_ours(read_file(ours)) == read_theirs(read_file(ours)))
    check("adapter: its bytes are those that the package writes",
          save(load_file(ours), {"format": "pt"}) == read_file(ours))
    for dtype, most in (("f16", 2e-3), ("bf16", 1e-2)):
        beamlora("export", run, "--format", "peft", "--dtype", dtype, "--out", path(dtype))
        short = load(path(dtype, "adapter_model.safetensors"))
        near(f"adapter in {dtype}: its values",
             max(numpy.abs(short[name] - value).max() / numpy.abs(value).max()
                 for name, value in adapter.items()), most)
    want = evaluate(base, "--adapter", run)["loss"]
    os.makedirs(path("again"))
    shutil.copy(os.path.join(run, "adapter_config.json"), path("again"))
    save_file(load_file(ours), path("again", "adapter_model.safetensors"))
    near("adapter written by the package: its loss",
         abs(evaluate(base, "--adapter", path("again"))["loss"] - want), 0)
    save_file({name[len(PREFIX):].replace(".weight", ""): value
               for name, value in load_file(ours).items()}, path("loralib.safetensors"))
    near("the same under loralib's names",
         abs(evaluate(base, "--adapter", path("loralib.safetensors"), "--adapter-alpha",
                      json.loads(read_file(path("again", "adapter_config.json")))["r"])
             ["loss"] - want), 1e-6)

    config = json.loads(read_file(path("again", "adapter_config.json")))
    bad = load_file(ours)
    bad[PREFIX + modules_of(adapter)[0] + ".lora_A.weight"][0, 0] = numpy.nan
    save_file(bad, path("again", "adapter_model.safetensors"))
    check("NaN in one of them is refused by name", modules_of(adapter)[0] in beamlora(
        "train", "--model", base, "--data", path("train.u16"), "--steps", 1, "--context",
        CONTEXT, "--batch", BATCH, "--method", "lora", "--init-adapter", path("again"),
        refused=True))
    check("lora_alpha is the rank", config["lora_alpha"] == config["r"])
    return adapter


def merged(base, run, adapter):
    before = load(os.path.join(base, "model.safetensors"))
    beamlora("export", run, "--format", "merged", "--out", path("merged"))
    after = load(path("merged", "model.safetensors"))
    check("merged: the base's tensors", sorted(after) == sorted(before))
    worst = 0
    for module in modules_of(adapter):
        name = module + ".weight"
        delta = product(adapter, module)
        worst = max(worst, numpy.abs(after[name] - before[name] - delta).max() /
                    numpy.abs(after[name]).max())
        before[name] = after[name]
    near("merged: less the base it is B'A' of the adapter", worst, 1e-6)
    check("merged: nothing else has changed",
          all((before[name] == after[name]).all() for name in before))


def published(base, run):
    beamlora("export", run, "--format", "published", "--out", path("published"))
    name = path("published", "adapter_model.safetensors")
    tensors = load_file(name)
    gates = [value.shape for key, value in tensors.items() if key.endswith(".lora_gate")]
    check("published: a gate [1, r] for every module", gates == [(1, 4)] * 14)
    near("published: its loss", abs(
        evaluate(base, "--adapter", path("published"))["loss"] -
        evaluate(base, "--adapter", run)["loss"]), 1e-6)


def ggufs(run, adapter):
    """The package reads our GGUF; its rows of q and k are in llama.cpp's order."""
    for dtype, most in (("f32", 0), ("f16", 2e-3), ("bf16", 1e-2)):
        name = path(dtype + ".gguf")
        beamlora("export", run, "--format", "gguf", "--dtype", dtype, "--out", name)
        reader = gguf.GGUFReader(name)
        fields = {key: field.contents() for key, field in reader.fields.items()}
        if dtype == "f32":
            check("gguf: its keys", fields.get("general.architecture") == "llama" and
                  fields.get("general.type") == "adapter" and
                  fields.get("adapter.type") == "lora" and
                  fields.get("adapter.lora.alpha") == 4.0)
            check("gguf: two tensors for each adapter", len(reader.tensors) == 28)
            check("gguf: data at multiples of 32",
                  all(tensor.data_offset % 32 == 0 for tensor in reader.tensors))
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
        found = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).reshape(
            tuple(int(n) for n in reversed(t.shape))) for t in reader.tensors}
        worst = 0
        for module in modules_of(adapter):
            target = names.get_name(module + ".weight", (".weight",))
            a = adapter[PREFIX + module + ".lora_A.weight"]
            b = adapter[PREFIX + module + ".lora_B.weight"]
            heads = {"q_proj": CONFIG["num_attention_heads"],
                     "k_proj": CONFIG["num_key_value_heads"]}.get(module.split(".")[-1])
            if heads is not None:
                # as llama.cpp's converter turns Hugging Face's rows into its own
                b = b.reshape(heads, 2, b.shape[0] // heads // 2, -1).swapaxes(1, 2) \
                    .reshape(b.shape)
            worst = max(worst, numpy.abs(found[target + ".lora_a"] - a).max() /
                        numpy.abs(a).max(),
                        numpy.abs(found[target + ".lora_b"] - b).max() / numpy.abs(b).max())
        near(f"gguf in {dtype}: the adapter's values, rows of q and k turned", worst, most)


def main():
    vectors()
    of_the_package()
    write_ids()
    base = make_base()
    base_by_the_package(base)
    run = train(base, "run", "--method", "beamlora", "--rank", 4, "--period", 8)
    adapter = adapters(base, run)
    checkpoint(run, adapter)
    merged(base, run, adapter)
    published(base, run)
    ggufs(run, adapter)
    beamlora("eval", "--model", base, "--data", path("eval.u16"), "--context", CONTEXT,
             "--batch", BATCH, "--dump-logits", path("logits.safetensors"))
    logits = load_file(path("logits.safetensors"))
    check("eval --dump-logits: rows of the vocabulary",
          logits["logits"].shape == (BATCH * CONTEXT, VOCAB) and
          logits["input_ids"].shape == (BATCH, CONTEXT))
    done()


if __name__ == "__main__":
    main()

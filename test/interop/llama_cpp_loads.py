"""Adapters in GGUF, and models merged here, in llama.cpp.

The base is written by the gguf package, rows of q and k turned as llama.cpp's converter
turns them. Needs llama-cpp-python, which PyPI has as source only: a compiler, cmake and some
minutes. Logits agree to 1e-4 in float32.
"""
import os

import gguf
import numpy
from llama_cpp import Llama
from safetensors.numpy import load_file

from checks import (CONFIG, CONTEXT, VOCAB, beamlora, check, done, make_base, near, path,
                    read_ids, train, write_ids)

MOST = 1e-4


def turned(weight, heads):
    """Rotary pairs (i, i + hd/2) become (2i, 2i + 1)."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2) \
        .reshape(weight.shape)


def write_model(folder, out):
    """A Hugging Face directory as a GGUF model."""
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_vocab_size(VOCAB)
    writer.add_context_length(CONFIG["max_position_embeddings"])
    writer.add_embedding_length(CONFIG["hidden_size"])
    writer.add_block_count(CONFIG["num_hidden_layers"])
    writer.add_feed_forward_length(CONFIG["intermediate_size"])
    writer.add_head_count(CONFIG["num_attention_heads"])
    writer.add_head_count_kv(CONFIG["num_key_value_heads"])
    writer.add_key_length(CONFIG["head_dim"])
    writer.add_value_length(CONFIG["head_dim"])
    writer.add_rope_dimension_count(CONFIG["head_dim"])
    writer.add_rope_freq_base(CONFIG["rope_theta"])
    writer.add_layer_norm_rms_eps(CONFIG["rms_norm_eps"])
    # ids are fed as they are; a model without words is not loaded
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>"] + [f"w{i}" for i in range(3, VOCAB)])
    writer.add_token_scores([0.0] * VOCAB)
    writer.add_token_types([2, 3, 3] + [1] * (VOCAB - 3))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, CONFIG["num_hidden_layers"])
    for name, weight in load_file(os.path.join(folder, "model.safetensors")).items():
        if "q_proj" in name:
            weight = turned(weight, CONFIG["num_attention_heads"])
        if "k_proj" in name:
            weight = turned(weight, CONFIG["num_key_value_heads"])
        writer.add_tensor(names.get_name(name, (".weight",)), weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def their_logits(model, adapter=None):
    # keys and values in float32 too (type 0), not in its own float16
    llama = Llama(model_path=model, lora_path=adapter, logits_all=True, n_ctx=256,
                  n_threads=1, type_k=0, type_v=0, flash_attn=False, verbose=False)
    llama.eval(read_ids("eval.u16")[:CONTEXT])
    return numpy.array(llama.scores[:CONTEXT])


def our_logits(model, *flags):
    beamlora("eval", "--model", model, "--data", path("eval.u16"), "--context", CONTEXT,
             "--batch", 1, "--dump-logits", path("logits.safetensors"), *flags)
    return load_file(path("logits.safetensors"))["logits"]


def differ(a, b):
    return numpy.abs(a - b).max()


def main():
    write_ids()
    base = make_base()
    write_model(base, path("base.gguf"))
    bare = their_logits(path("base.gguf"))
    near("the bare model", differ(bare, our_logits(base)), MOST)
    for name, flags in (("lora", []), ("rslora", []), ("adalora", ["--target-rank", 2]),
                        ("beamlora", ["--period", 8])):
        run = train(base, "run " + name, "--method", name, "--rank", 4, *flags)
        ours = our_logits(base, "--adapter", run)
        check(f"{name}: it changes the logits", differ(ours, our_logits(base)) > 0.1)
        for dtype, most in (("f32", MOST), ("f16", 1e-2), ("bf16", 1e-1)):
            out = path(f"{name}.{dtype}.gguf")
            beamlora("export", run, "--format", "gguf", "--dtype", dtype, "--out", out)
            near(f"{name} in {dtype}: the adapter in llama.cpp",
                 differ(their_logits(path("base.gguf"), out), ours), most)
        beamlora("export", run, "--format", "merged", "--out", path(name + " merged"))
        write_model(path(name + " merged"), path(name + ".merged.gguf"))
        near(f"{name}: merged here, in llama.cpp",
             differ(their_logits(path(name + ".merged.gguf")), ours), MOST)
    done()


if __name__ == "__main__":
    main()

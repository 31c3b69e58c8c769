"""examples/01_one_layer.c from Python, with nothing but ctypes.

BEAMLORA_LIBRARY names the shared library; without it libbeamlora.so.0 is looked for as
the system does.
"""
import ctypes
import os
import random
import sys
from ctypes import POINTER, c_char_p, c_double, c_float, c_int, c_int32, c_int64
from ctypes import c_size_t, c_uint64, c_void_p

lib = ctypes.CDLL(os.environ.get("BEAMLORA_LIBRARY", "libbeamlora.so.0"))


class Options(ctypes.Structure):
    """bl_options, field by field as in beamlora.h of 0.1."""
    _fields_ = [
        ("size", c_size_t),
        ("method", c_int32), ("scaling", c_int32),
        ("rank", c_int64), ("capacity", c_int64),
        ("alpha", c_double), ("dropout", c_double), ("temperature", c_double),
        ("parameter_dtype", c_int32), ("activation_dtype", c_int32),
        ("seed", c_uint64),
        ("dora", c_int32), ("optimizer", c_int32),
        ("lr", c_double), ("beta1", c_double), ("beta2", c_double),
        ("epsilon", c_double), ("weight_decay", c_double),
        ("b_lr_ratio", c_double), ("score_lr_ratio", c_double),
        ("total_steps", c_int64), ("period", c_int64), ("start", c_int64),
        ("p_start", c_double), ("p_end", c_double),
        ("p_curve", c_int32), ("reallocation", c_int32),
        ("p_steps", c_int64),
        ("scope", c_int32), ("crossing", c_int32),
        ("importance", c_int32), ("selection", c_int32),
        ("fixed_count", c_int64),
        ("max_prune_fraction", c_double), ("idle", c_double),
        ("budget", c_int64),
        ("expand", c_int32), ("moments", c_int32),
        ("pairing", c_int32), ("transfer", c_int32),
        ("history_depth", c_int64), ("history_interval", c_int64),
        ("history_phase", c_int64), ("history_age", c_int64),
        ("parallel_for", c_void_p), ("parallel_user", c_void_p),
        ("alloc", c_void_p), ("free", c_void_p), ("alloc_user", c_void_p),
        ("parameters", c_void_p), ("gradients", c_void_p), ("moments_mv", c_void_p),
        ("base", c_void_p), ("ldbase", c_int64), ("base_rows", c_void_p),
        ("target_rank", c_int64), ("tinit", c_int64), ("tfinal", c_int64),
        ("delta_t", c_int64), ("sensitivity_beta", c_double),
        ("uncertainty_beta", c_double), ("orth_reg_weight", c_double),
        ("history_dtype", c_int32), ("reserved", c_int32),
    ]


def declare(name, result, *arguments):
    function = getattr(lib, name)
    function.restype, function.argtypes = result, arguments
    return function


# without argtypes ctypes would pass sizes as 32-bit integers, and refuse floats
last_error = declare("bl_last_error", c_char_p)
options_init = declare("bl_options_init", c_int, POINTER(Options), c_size_t)
adapter_create = declare("bl_adapter_create", c_int, POINTER(c_void_p), c_int64, c_int64,
                         POINTER(Options))
adapter_free = declare("bl_adapter_free", None, c_void_p)
tape_create = declare("bl_tape_create", c_int, POINTER(c_void_p), c_void_p, c_int64,
                      c_int32)
tape_free = declare("bl_tape_free", None, c_void_p)
forward = declare("bl_forward", c_int, c_void_p, c_void_p, c_int64, c_void_p, c_int64,
                  c_void_p, c_int64, c_int64)
backward = declare("bl_backward", c_int, c_void_p, c_void_p, c_int64, c_void_p, c_int64,
                   c_void_p, c_int64, c_void_p, c_int64)
step_adapter = declare("bl_step", c_int, c_void_p, c_double, c_double)
reallocate_due = declare("bl_reallocate_due", c_int32, c_void_p)
reallocate = declare("bl_reallocate", c_int, c_void_p, c_void_p)


def check(code):
    if code != 0:
        raise RuntimeError(last_error().decode())


def default_options():
    """bl_options_init, and a check that Options is laid out as the library has it."""
    opt = Options()
    check(options_init(opt, ctypes.sizeof(opt)))
    layout_fits = (ctypes.sizeof(opt) == 440 and opt.size == 440 and
                   opt.rank == 8 and opt.epsilon == 1e-8 and opt.p_start == 0.95 and
                   opt.max_prune_fraction == 0.5 and opt.history_depth == 1 and
                   opt.history_phase == -1 and opt.history_age == -1 and
                   opt.parallel_for is None and opt.base_rows is None and
                   opt.delta_t == 1 and opt.orth_reg_weight == 0.5)
    if not layout_fits:
        raise RuntimeError("Options is not laid out as bl_options")
    return opt


def main():
    n, inputs, outputs, steps = 32, 16, 8, 120
    rng = random.Random(1)
    x = [[rng.uniform(-1, 1) for _ in range(inputs)] for _ in range(n)]
    u = [rng.uniform(-1, 1) for _ in range(outputs)]
    v = [rng.uniform(-1, 1) for _ in range(inputs)]
    want = [uj * sum(a * b for a, b in zip(row, v)) for row in x for uj in u]

    x = (c_float * (n * inputs))(*(value for row in x for value in row))
    y = (c_float * (n * outputs))()
    dy = (c_float * (n * outputs))()

    opt = default_options()
    opt.rank, opt.alpha, opt.total_steps = 4, 8.0, steps
    adapter, tape = c_void_p(), c_void_p()
    check(adapter_create(adapter, inputs, outputs, opt))
    check(tape_create(tape, adapter, n, 1))

    losses = []
    for step in range(steps):
        ctypes.memset(y, 0, ctypes.sizeof(y))
        check(forward(adapter, tape, n, y, outputs, x, inputs, step))
        losses.append(sum((a - b) ** 2 for a, b in zip(y, want)) / 2 / n)
        dy[:] = [(a - b) / n for a, b in zip(y, want)]
        check(backward(adapter, tape, n, None, 0, dy, outputs, x, inputs))
        check(step_adapter(adapter, 0.02, 1.0))
        if reallocate_due(adapter):
            check(reallocate(adapter, None))
    print(f"loss {losses[0]:.6f} at first, {losses[-1]:.6f} after {steps} steps")

    tape_free(tape)
    adapter_free(adapter)
    return 0 if losses[-1] < 0.01 * losses[0] else 1


if __name__ == "__main__":
    sys.exit(main())

"""marsopt_checks.py: what test_marsopt.sh checks of dev/examples/marsopt.py; the argument is the name of a check, and an
exception is a failure. Arrays are NumPy's, or with MARSOPT_TORCH=1 PyTorch's tensors over their memory."""
import ctypes
import json
import os
import re
import subprocess
import sys

import numpy as np

sys.path.insert(0, "dev/examples")
import marsopt

use_torch = os.environ.get("MARSOPT_TORCH") == "1"
if use_torch:
    import torch


def given(array):
    """What a user passes for an array: itself, or a tensor that shares its memory."""
    return torch.from_numpy(array).requires_grad_() if use_torch else array


def small(**settings):
    """Two parameters and an optimizer on them."""
    w, b = np.ones((3, 2), np.float32), np.ones(4, np.float32)
    name = settings.pop("name", "adamw")
    return w, b, marsopt.Optimizer([("w", "matrix", given(w)), ("b", "vector", given(b))], name, 0.01, **settings)


def fails(error, *parts):
    """A context in which an exception of this type, with these parts in its message, must occur."""
    class Expected:
        def __enter__(self):
            return self

        def __exit__(self, kind, value, trace):
            assert kind and issubclass(kind, error), f"{kind} instead of {error}: {value}"
            for part in parts:
                assert part in str(value), f"'{part}' is not in: {value}"
            return True
    return Expected()


# ---- the published values ----

def as_array(numbers, shape):
    return np.array(numbers, np.float32).reshape(shape)


def distance(a, b, names):
    return np.sqrt(sum(((a[n].astype(float).ravel() - np.array(b[n], float).ravel()) ** 2).sum() for n in names))


def compare(params, start, same, precise, case, step):
    """As compare_golden() in test_optim_rules.c: per tensor and over all, in shares of the way gone."""
    for names in [[n] for n in params] + [list(params)]:
        goal = precise or same
        way = distance(start, goal, names)
        allowed = max(1e-4, 1.6 * distance({n: np.array(same[n]) for n in names}, goal, names) / way if precise else 0)
        off = distance(params, goal, names) / way
        assert off <= allowed, f"{case}, step {step}, {names}: off by {off:.3g} of the way, allowed {allowed:.3g}"


def run_case(golden, case, by_name):
    settings = dict(case["settings"], grad_clip=0.0)
    name, rate = settings.pop("name"), settings.pop("learning_rate")
    params = {t["name"]: as_array(t["init"], t["shape"]) for t in golden["tensors"]}
    start = {n: p.copy() for n, p in params.items()}
    precise = by_name.get(case["case"].replace("bfloat16", "float32")) if case["case"].endswith("bfloat16") else None
    listed = [(t["name"], t["role"], given(params[t["name"]])) for t in golden["tensors"]]
    exact, steps, compared = settings.get("is_approx") is False, len(golden["grads"]), 0
    with marsopt.Optimizer(listed, name, rate, **settings) as optimizer:
        for step in range(steps):
            def gradients(by_tensor):
                return [given(as_array(by_tensor[n], p.shape)) for n, p in params.items()]
            grads, lr = gradients(golden["grads"][step]), rate * golden["lr_scale"][step]
            if exact:
                next_step = step + 1 if step + 1 < steps else 0
                norm = optimizer.step(grads, gradients(golden["last_grad_exact"][next_step]), lr=lr)
            else:
                norm = optimizer.step(grads, lr=lr)
            expected = np.sqrt(sum((np.array(g, float) ** 2).sum() for g in golden["grads"][step].values()))
            assert abs(norm - expected) < 1e-6 * expected, f"{case['case']}: norm {norm}, expected {expected}"
            same = case["params_after"].get(str(step))
            if same:
                compare(params, start, same, precise and precise["params_after"][str(step)], case["case"], step)
                compared += 1
    assert compared == 3


def check_golden():
    golden = json.load(open("dev/golden/optimizers.json"))
    by_name = {case["case"]: case for case in golden["cases"]}
    others = {"normuon", "mars-normuon"}  # which optimizers.json does not have
    assert {case["settings"]["name"] for case in golden["cases"]} == set(marsopt.optimizers()) - others
    for case in golden["cases"]:
        run_case(golden, case, by_name)


# ---- the C structs and enumerations ----

def fields_in_headers(struct, text):
    body = re.search(r"typedef struct %s \{(.*?)\} %s;" % (struct, struct), text, re.S).group(1)
    return re.findall(r"(\w+)(?:\[\w+\])?[,;]", body)


def check_layout():
    """The fields in the headers are the same, and a C program finds them at the same places."""
    compiler, folder = os.environ.get("CC", "cc"), sys.argv[2]
    headers = subprocess.run(f"{compiler} -E -P -I. optim/optim.h", shell=True, check=True, capture_output=True, text=True)
    lines, mirrored = [], []
    for struct in (marsopt.OptimConfig, marsopt.OptimTensor, marsopt.OptimRates, marsopt.OptimResult):
        name, fields = struct.__name__, [field for field, _ in struct._fields_]
        assert fields == fields_in_headers(name, headers.stdout), (name, fields, fields_in_headers(name, headers.stdout))
        lines.append(f'printf("%zu\\n", sizeof({name}));')
        mirrored.append(ctypes.sizeof(struct))
        for field in fields:
            lines.append(f'printf("%zu\\n%zu\\n", offsetof({name}, {field}), sizeof((({name} *)0)->{field}));')
            mirrored += [getattr(struct, field).offset, getattr(struct, field).size]
    for constant, value in [("ROLE_" + role.upper(), i) for i, role in enumerate((*marsopt.ROLES, "count"))] + \
            [("NS_DTYPE_" + word.upper(), i) for i, word in enumerate(marsopt.WORDS["ns_dtype"])] + \
            [("NS_COEFFICIENTS_" + word.upper().replace("-", "_"), i)
             for i, word in enumerate(marsopt.WORDS["ns_coefficients"])] + \
            [("MUON_SCALE_" + word.upper().replace("-", "_"), i) for i, word in enumerate(marsopt.WORDS["muon_scale"])] + \
            [("OPTIM_COUNT", len(marsopt.optimizers())), ("SCHEDULE_CONSTANT", 0), ("offsetof(OptimInfo, gradients)", 0),
             ("sizeof(((Error *)0)->text)", 1024), ("sizeof(ScheduleConfig) <= 64", 1), ("TENSOR_NAME_LENGTH", 64)]:
        lines.append(f'printf("%zu\\n", (size_t)({constant}));')
        mirrored.append(value)
    with open(f"{folder}/layout.c", "w") as source:
        source.write('#include <stdio.h>\n#include "optim/optim.h"\nint main(void) {\n' + "\n".join(lines) + "\n}\n")
    subprocess.run(f"{compiler} -I. {folder}/layout.c -o {folder}/layout", shell=True, check=True)
    printed = subprocess.run(f"{folder}/layout", check=True, capture_output=True, text=True).stdout
    assert [int(line) for line in printed.split()] == mirrored, (printed.split(), mirrored)


# ---- what a step does besides ----

def check_steps():
    w, b, optimizer = small(lr_1d=0.02, weight_decay=0.0, threads=1)
    before = w.copy()
    grads = [np.full((2, 3), 0.5, np.float32).T, np.full(4, -0.5, np.float32)]  # the first one is not contiguous
    norm = optimizer.step([given(g) for g in grads])
    assert abs(norm - np.sqrt(10 * 0.25)) < 1e-6 and optimizer.nonfinite is None
    assert np.allclose(w, before - 0.01, atol=1e-6) and np.allclose(b, 1.02, atol=1e-6)
    w[:] = 5.0  # steps begin with what the arrays hold
    optimizer.step(grads, lr=0.0)
    assert (w == 5.0).all()
    grads[1][2] = np.nan
    before = b.copy()
    assert optimizer.step(grads) == np.inf and optimizer.nonfinite == "b" and (b == before).all() and (w == 5.0).all()
    grads[1][2] = 0.5
    assert optimizer.step(grads) < 2 and optimizer.nonfinite is None and (w < 5.0).all()
    optimizer.close()
    optimizer.close()
    with fails(ValueError, "closed"):
        optimizer.step(grads)


def check_stacked():
    """split_qkv makes a step of stacked matrices that of each by itself."""
    rows = np.arange(24, dtype=np.float32).reshape(6, 4) % 5
    whole, parts = np.ones((6, 4), np.float32), [np.ones((2, 4), np.float32) for _ in range(3)]
    for split in (True, False):
        together = marsopt.Optimizer([("qkv", "matrix", whole, 3)], "muon", 0.01, split_qkv=split, grad_clip=0)
        together.step([rows])
        apart = marsopt.Optimizer([(str(i), "matrix", p) for i, p in enumerate(parts)], "muon", 0.01, grad_clip=0)
        apart.step([rows[2 * i:2 * i + 2] for i in range(3)])
        assert np.allclose(whole, np.concatenate(parts), atol=1e-6) == split
    for stacked in (0, 4, -3, "3", 1.5):
        with fails(ValueError, "qkv", repr(stacked), "6 rows"):
            marsopt.Optimizer([("qkv", "matrix", whole, stacked)], "muon", 0.01)


def check_all_settings():
    """Every field of the config is a setting, and is stored."""
    values = {"betas_1d": (0.5, 0.25), "ns_steps": 7, "ns_coefficients": "cubic", "ns_dtype": "float32",
              "muon_scale": "sqrt-max"}
    for key, kind in marsopt.OptimConfig._fields_[2:]:
        value = values.get(key, False if kind is ctypes.c_bool else 0.125)
        config = small(**{key: value})[2]._config
        stored = getattr(config, key)
        expected = marsopt.WORDS[key].index(value) if key in marsopt.WORDS else value
        assert (tuple(stored) if key == "betas_1d" else stored) == expected, (key, stored)
    small(beta1=np.float32(0.5), betas_1d=np.array([0.5, 0.25]), eps=np.int64(1))
    small(name="sgd-boost")
    for name in marsopt.optimizers():
        for coefficients in marsopt.WORDS["ns_coefficients"]:
            w, b, optimizer = small(name=name, ns_coefficients=coefficients, cautious_weight_decay=True)
            optimizer.step([np.full((3, 2), 0.5, np.float32), np.full(4, -0.5, np.float32)])
            assert np.isfinite(w).all() and (w < 1).all() and (b > 1).all(), (name, coefficients, w, b)


# ---- wrong inputs ----

def param(array, name="w", role="matrix"):
    return marsopt.Optimizer([(name, role, array)], "adamw", 0.01)


def check_wrong_settings():
    for name in ("adam", "", None, 3):
        with fails(ValueError, repr(name), "sgd-sai"):
            small(name=name)
    for key in ("betas", "name_", "Beta1", ""):
        with fails(TypeError, repr(key), "beta1", "split_qkv"):
            small(**{key: 1})
    for key, value, expected in (
            ("beta1", "0.9", "a number"), ("beta1", -1, "at least 0"), ("eps", float("nan"), "a number"),
            ("eps", float("inf"), "a number"), ("gamma", None, "a number"), ("weight_decay", True, "a number"),
            ("nesterov", 1, "True or False"), ("is_approx", "yes", "True or False"), ("ns_steps", 5.0, "a whole number"),
            ("ns_steps", 2**40, "a whole number"), ("ns_steps", True, "a whole number"), ("ns_dtype", "float16", "bfloat16"),
            ("ns_dtype", 1, "bfloat16"), ("muon_scale", "", "spectral"), ("betas_1d", 0.9, "two"), ("betas_1d", (1, 2, 3), "two"),
            ("betas_1d", (0.9, "x"), "two"), ("betas_1d", (), "two")):
        with fails(ValueError, key, repr(value), expected):
            small(**{key: value})
    for lr in (0, -0.1, float("nan"), "0.1", None, True):
        with fails(ValueError, repr(lr)):
            param_list = [("w", "matrix", np.ones((2, 2), np.float32))]
            marsopt.Optimizer(param_list, "adamw", lr)
    with fails(TypeError):
        small(threads="two")


def check_ranges():
    """What the library finds out of range, and what only this module knows."""
    for key, value, part in (("beta1", 1.0, "below 1"), ("beta2", 1.5, "below 1"), ("betas_1d", (0.9, 2), "below 1"),
                             ("momentum", 1.5, "below 1"), ("ns_steps", 101, "1 to 100"), ("muon_beta2", 1, "below 1"),
                             ("eps", 0, "above 0"), ("gradient_scale", 0, "above 0"), ("threads", -1, "threads"),
                             ("threads", 2000000000, "0 to 4096"), ("muon_learning_rate", 0, "above 0")):
        with fails(RuntimeError, key, part):
            small(**{key: value})
    with fails(RuntimeError, "ns_steps is 12", "polar-express has exactly 5 steps"):
        small(name="muon", ns_coefficients="polar-express", ns_steps=12)
    with fails(RuntimeError, "beta1 is 0", "mars-m-efficient divides by it"):
        small(name="mars-m-efficient", beta1=0)
    for key in ("embedding_lr", "lm_head_lr", "lr_1d"):
        with fails(ValueError, key, "above 0"):
            small(**{key: 0})
    with fails(TypeError, "learning_rate"):
        small(learning_rate=1)


def check_wrong_params():
    ok = np.ones((4, 2), np.float32)
    for role in ("Matrix", "", 0, None, "bias"):
        with fails(ValueError, "the role of w", repr(role), "embedding"):
            param(ok, role=role)
    with fails(TypeError, "w is of type list"):
        param([[1.0]])
    for dtype in (np.float64, np.float16, np.int32, ">f4"):
        with fails(TypeError, "w is of dtype", str(np.dtype(dtype)), "float32"):
            param(ok.astype(dtype))
    for array, role in ((ok, "vector"), (ok[0], "matrix"), (ok[None], "embedding"), (ok[:0], "matrix"), (ok[0, 0:0], "vector"),
                        (np.array(1, np.float32), "vector")):
        with fails(ValueError, f"w is a {role} of shape {array.shape}", "-D, not empty"):
            param(array, role=role)
    for array in (ok.T, ok[::2], ok[:, :1]):
        with fails(ValueError, "w is not contiguous", f"strides {array.strides}"):
            param(array)
    ok.flags.writeable = False
    with fails(ValueError, "w is", "read-only", "writable"):
        param(ok)
    for name in ("x" * 64, 5, None):
        with fails(ValueError, repr(name), "64 bytes"):
            param(ok, name=name)
    for params in ([], [("w", "matrix")], None):
        with fails((TypeError, ValueError)):
            marsopt.Optimizer(params, "adamw", 0.01)


def check_wrong_grads():
    w, b, optimizer = small()
    exact = small(name="mars-adamw", is_approx=False)[2]
    good = [np.ones((3, 2), np.float32), np.ones(4, np.float32)]
    with fails(ValueError, "the number of gradients is [1]", "expected 2"):
        optimizer.step(good[:1])
    with fails(ValueError, "the gradient of b is of shape (3,)", "(4,)"):
        optimizer.step([good[0], good[1][:3]])
    with fails(ValueError, "the gradient of w is of shape (2, 3)", "(3, 2)"):
        optimizer.step([good[0].T, good[1]])
    with fails(TypeError, "the gradient of w is of dtype float64", "float32"):
        optimizer.step([good[0].astype(float), good[1]])
    with fails(TypeError, "the gradient of b is of type NoneType"):
        optimizer.step([good[0], None])
    with fails(TypeError, "the number of gradient lists is 2; expected 1"):
        optimizer.step(good, good)
    with fails(TypeError, "the number of gradient lists is 1; expected 2"):
        exact.step(good)
    with fails(ValueError, "the number of gradients is [2, 1]"):
        exact.step(good, good[:1])
    for lr in (-1.0, "0.1", float("inf")):
        with fails(ValueError, "lr", repr(lr)):
            optimizer.step(good, lr=lr)
    assert (w == 1).all() and (b == 1).all()
    optimizer.step(good)  # which goes on after them
    exact.step(good, good)
    assert (w < 1).all() and (b < 1).all()


def check_wrong_tensors():
    """PyTorch only."""
    with fails(TypeError, "w is of dtype torch.bfloat16", "float32"):
        param(torch.ones(2, 2, dtype=torch.bfloat16))
    with fails(ValueError, "w is on another device", "CPU"):
        param(torch.ones(2, 2, device="meta"))
    with fails(ValueError, "w is not contiguous"):
        param(torch.ones(3, 2).t())


globals()["check_" + sys.argv[1]]()

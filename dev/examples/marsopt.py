"""marsopt.py: the optimizers of mars.c on NumPy arrays, and on PyTorch tensors of the CPU, by ctypes.

    with Optimizer([("W", "matrix", w), ("b", "vector", b)], "mars-adamw", lr=3e-3, weight_decay=0.01) as optimizer:
        norm = optimizer.step([dw, db])

The library is libmarsopt.so, which `make` builds, or the file that MARSOPT_LIBRARY names. As a script, a demo."""
import contextlib, ctypes, os, weakref
from ctypes import byref, c_bool, c_char, c_char_p, c_double, c_int, c_int64, c_size_t, c_void_p

import numpy as np

# The enumerations and structs of optim/optim_config.h, optim/optim.h and util/tensor_role.h, in their order.
ROLES = ("matrix", "embedding", "lm_head", "vector")
WORDS = {"ns_coefficients": ("quintic", "polar-express", "cubic"), "ns_dtype": ("auto", "bfloat16", "float32"),
         "muon_scale": ("auto", "spectral", "sqrt-max", "moonlight", "none")}


def _struct(name, *groups):
    return type(name, (ctypes.Structure,), {"_fields_": [(f, kind) for kind, names in groups for f in names.split()]})


OptimConfig = _struct(
    "OptimConfig", (c_int, "name"), (c_double, "learning_rate embedding_lr lm_head_lr lr_1d weight_decay"),
    (c_bool, "cautious_weight_decay"), (c_double, "beta1 beta2 eps grad_clip gradient_scale gamma"),
    (c_bool, "is_approx optimize_1d"), (c_double * 2, "betas_1d"), (c_double, "weight_decay_1d"),
    (c_double, "muon_learning_rate muon_weight_decay"), (c_bool, "muon_embeddings"), (c_double, "muon_beta2 momentum"),
    (c_bool, "nesterov"), (c_int, "ns_steps ns_coefficients ns_dtype muon_scale"), (c_bool, "split_qkv"))
OptimTensor = _struct("OptimTensor", (c_char_p, "name"), (c_int, "role"), (c_int64, "rows columns"), (c_int, "stacked"))
OptimRates = _struct("OptimRates", (c_double * 8, "lr"))
OptimResult = _struct("OptimResult", (c_double, "grad_norm"), (c_int, "nonfinite_tensor"), (c_bool, "of_next_batch"))

_path = os.environ.get("MARSOPT_LIBRARY") or os.path.join(os.path.dirname(__file__), "..", "..", "libmarsopt.so")
if not os.path.exists(_path):
    raise OSError(f"{_path} is missing: run `make` in the folder of mars.c, or set MARSOPT_LIBRARY")
_library = ctypes.CDLL(os.path.abspath(_path))
for _name, _result in dict(defaults=OptimConfig, rates=OptimRates, result=OptimResult, open=c_void_p, params=c_void_p,
                           gradient=c_void_p, offset=c_size_t, info=ctypes.POINTER(c_int)).items():
    getattr(_library, "optim_" + _name).restype = _result


def optimizers():
    """The names of the optimizers; optim_find() returns how many there are for a name that is not among them."""
    return [name.decode() for name in (c_char_p * _library.optim_find(b"")).in_dll(_library, "optim_names")]


def _check(ok, what, found, expected, error=ValueError):
    if not ok:
        raise error(f"{what} is {found}; expected {expected}")


def _setting(key, value, what=None):
    """The value of OptimConfig's field `key`; `what` is its name in messages."""
    kinds, rates = dict(OptimConfig._fields_[2:]), ("embedding_lr", "lm_head_lr", "lr_1d")
    _check(key in kinds, "a setting", repr(key), f"one of {list(kinds)}", TypeError)
    if key in WORDS:
        _check(value in WORDS[key], key, repr(value), f"one of {WORDS[key]}")
        return WORDS[key].index(value)
    types, expected = {c_bool: (bool, "True or False"), c_int: ((int, np.integer), "a whole number")}.get(
        kinds[key], ((int, float, np.number), "a number of at least 0, above 0 for learning rates; for betas_1d, two"))
    values = tuple(value) if isinstance(value, (list, tuple, np.ndarray)) else (value,)
    ok = all(isinstance(v, types) and isinstance(v, bool) == (types is bool) and 0 <= v < 2**31 for v in values)
    ok = ok and len(values) == (2 if key == "betas_1d" else 1) and (values[0] > 0 or key not in rates)
    _check(ok, what or key, repr(value), expected)
    return values if key == "betas_1d" else values[0]


def _array(what, value, shape=None):
    """The NumPy array itself, or the one that shares a tensor's memory."""
    is_tensor = hasattr(value, "detach")
    _check(is_tensor or isinstance(value, np.ndarray), what, f"of type {type(value).__name__}", "an array", TypeError)
    _check(str(value.dtype) in ("float32", "torch.float32"), what, f"of dtype {value.dtype}", "float32", TypeError)
    _check(not is_tensor or value.device.type == "cpu", what, "on another device", "a tensor on the CPU")
    array = value.detach().numpy() if is_tensor else value
    _check(shape in (None, array.shape), what, f"of shape {array.shape}", f"shape {shape}")
    return array


def _param(name, role, array, stacked=1):
    _check(isinstance(name, str) and len(name.encode()) < 64, "a name", repr(name), "a string under 64 bytes")
    _check(role in ROLES, f"the role of {name}", repr(role), f"one of {ROLES}")
    array, dimensions = _array(name, array), 1 if role == "vector" else 2
    _check(array.ndim == dimensions and array.size, name, f"a {role} of shape {array.shape}", f"{dimensions}-D, not empty")
    _check(array.flags.carray, name, f"not contiguous or read-only; strides {array.strides}", "contiguous, writable")
    ok, rows = isinstance(stacked, int) and stacked > 0 and len(array) % stacked == 0, f"a divisor of {len(array)} rows"
    _check(ok, f"the number of matrices in {name}", repr(stacked), rows)
    return OptimTensor(name.encode(), ROLES.index(role), array.size // array.shape[-1], array.shape[-1], stacked), array


class Optimizer(contextlib.AbstractContextManager):
    """`params` is a list of (name, role, array[, matrices stacked in it, for split_qkv]); steps change the arrays in
    place. `settings` are fields of OptimConfig; other learning rates are `lr`. `threads` 0: all cores. `nonfinite` names
    the first parameter whose gradient was not finite in the last step, which then changed nothing, or is None."""

    def __init__(self, params, name, lr, *, threads=0, **settings):
        index = _library.optim_find(str(name).encode())
        _check(index < len(optimizers()), "the optimizer", repr(name), f"one of {optimizers()}")
        lr = _setting("lr_1d", lr, "lr")
        self._config = _library.optim_defaults(index, c_double(lr))
        for key, value in settings.items():
            setattr(self._config, key, _setting(key, value))
        tensors, self._arrays = zip(*(_param(*param) for param in params))
        self._names, count, error = [tensor.name.decode() for tensor in tensors], len(tensors), (c_char * 1024)()
        tensors = (OptimTensor * count)(*tensors)
        self._optim = c_void_p(_library.optim_open(byref(self._config), tensors, count, c_int(threads), error))
        _check(self._optim, name, f"refused: {error.value.decode()}", "an optimizer for this machine", RuntimeError)
        self.close = weakref.finalize(self, _library.optim_close, self._optim)  # frees the library's memory
        self._gradients, self.nonfinite = _library.optim_info(self._optim)[0], None

    def __exit__(self, *exception):
        self.close()

    def _copy(self, buffer, arrays, back=False):  # to a flat buffer of the library, or back
        for i, array in enumerate(map(np.ascontiguousarray, arrays)):
            to, of = buffer + 4 * _library.optim_offset(self._optim, i), array.ctypes.data
            ctypes.memmove(of if back else to, to if back else of, array.nbytes)

    def step(self, grads, next_grads=None, lr=None):
        """One update; returns the global norm of the gradient. Exact MARS (is_approx=False) takes the gradients of this
        batch and of the next one: step(grads, next_grads). step(grads, lr=RATE) multiplies every learning rate by
        RATE / learning_rate in this step."""
        _check(self.close.alive, "the optimizer", "closed", "an open one")
        lists, count = [list(grads)] + ([] if next_grads is None else [list(next_grads)]), len(self._names)
        _check(len(lists) == self._gradients, "the number of gradient lists", len(lists), self._gradients, TypeError)
        _check(all(len(part) == count for part in lists), "the number of gradients", [len(part) for part in lists], count)
        lists = [[_array(f"the gradient of {name}", grad, array.shape)
                  for name, grad, array in zip(self._names, part, self._arrays)] for part in lists]
        factor = 1 if lr is None else _setting("weight_decay", lr, "lr") / self._config.learning_rate
        rates = _library.optim_rates(byref(self._config), bytes(64), c_int64(0))  # a ScheduleConfig of zeros: constant
        rates.lr[:] = [factor * rate for rate in rates.lr]
        self._copy(_library.optim_params(self._optim), self._arrays)
        for which, arrays in enumerate(lists):
            self._copy(_library.optim_gradient(self._optim, which), arrays)
        _library.optim_step(self._optim, rates, c_bool(False))
        result = _library.optim_result(self._optim)
        self._copy(_library.optim_params(self._optim), self._arrays, back=True)
        self.nonfinite = self._names[result.nonfinite_tensor] if result.nonfinite_tensor >= 0 else None
        return result.grad_norm


if __name__ == "__main__":
    random = np.random.default_rng(1)
    x, truth = random.standard_normal((200, 8), np.float32), random.standard_normal((3, 8), np.float32)
    for chosen in ("mars-adamw", "muon"):
        w, b = np.zeros((3, 8), np.float32), np.zeros(3, np.float32)
        with Optimizer([("W", "matrix", w), ("b", "vector", b)], chosen, 0.03, weight_decay=0) as optimizer:
            for step in range(200):
                error = x @ w.T + b - (x @ truth.T + 1)
                norm = optimizer.step([error.T @ x / 200, error.mean(0)], lr=0.03 * (1 - step / 200))
        print(f"{chosen:10} loss {(error ** 2).mean() / 2:.6f}, gradient norm {norm:.4f} after 200 steps")

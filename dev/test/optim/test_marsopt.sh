#!/usr/bin/env bash
# test_marsopt.sh: tests of dev/examples/marsopt.py with NumPy arrays, and with PyTorch tensors where there is PyTorch.
# marsopt_checks.py holds the checks. Prints "N passed, N failed" at its end.
#
# Python is the first of $PYTHON, python3 and /usr/bin/python3 that has NumPy (Debian's python3-numpy).
# shellcheck source=dev/test/script_fixture.sh
source "$(dirname "$0")/../script_fixture.sh"

export MARSOPT_LIBRARY=$BIN/libmarsopt.so OMP_WAIT_POLICY=passive

has_module() { "$1" -c "import $2" >/dev/null 2>&1; }

python=python3
for candidate in "${PYTHON:-python3}" python3 /usr/bin/python3; do
    if has_module "$candidate" numpy; then python=$candidate && break; fi
done

check() { run 0 "$python" -B dev/test/optim/marsopt_checks.py "$@"; }

test_every_optimizer_takes_the_published_steps() { check golden; }
test_layout_of_structs() { check layout "$here"; }
test_steps() { check steps; }

test_stacked_matrices() { check stacked; }

test_values_out_of_range() { check ranges; }
test_all_settings() { check all_settings; }
test_wrong_settings() { check wrong_settings; }
test_wrong_params() { check wrong_params; }
test_wrong_grads() { check wrong_grads; }

test_the_demonstration() {
    run 0 "$python" -B dev/examples/marsopt.py
    has "$here/output" "mars-adamw loss 0.00"
    has "$here/output" "muon       loss 0.00"
}

test_a_missing_library_is_named() {
    MARSOPT_LIBRARY=$here/none.so run 1 "$python" -B dev/examples/marsopt.py
    has "$here/output" "$here/none.so is missing: run \`make\`"
}

# The message of a fatal error in the library is seen, and Python ends with its status.
test_fatal_errors_are_not_hidden() {
    run 1 "$python" -B -c 'import sys; sys.path.insert(0, "dev/examples")
import marsopt, numpy
optimizer = marsopt.Optimizer([("b", "vector", numpy.ones(2, "f"))], "adamw", 0.1)
marsopt._library.optim_result(optimizer._optim)
print("still here")'
    has "$here/output" "mars: error: optim_result: no step is enqueued"
    lacks "$here/output" "still here"
}

if has_module "$python" torch; then
    test_torch_tensors() {
        export MARSOPT_TORCH=1
        check golden
        check steps
        check wrong_tensors
    }
else
    echo "test_torch_tensors: skipped: $python has no PyTorch"
fi

run_script_tests "$@"

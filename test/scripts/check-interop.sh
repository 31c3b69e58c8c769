#!/bin/sh
# usage: check-interop.sh files|all DIR BEAMLORA
# What other programs make of our files and we of theirs: the scripts of test/interop, with
# packages from PyPI in environments of their own in DIR, which are kept. `files` takes the
# small packages alone (safetensors, gguf, numpy: 30 MB), `all` PyTorch, transformers, PEFT
# and llama-cpp-python too (0.6 GB to fetch, 2.5 GB on the disk; llama.cpp is compiled, which
# takes ten minutes or more: LLAMA_CPP=no leaves it out). What cannot be installed is
# skipped, and said so; the versions that were found are printed.
set -u
which=$1 dir=$2 program=$3
here=$(dirname "$0")
python=${PYTHON:-python3}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
case $program in /*) ;; *) program=$PWD/$program ;; esac
PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 OPENBLAS_NUM_THREADS=1
export PYTHONDONTWRITEBYTECODE PIP_DISABLE_PIP_VERSION_CHECK OPENBLAS_NUM_THREADS

# skip WHAT: in a way that ci.sh finds, with the reason's last line
skip()
{
    echo "interop: $1, skipped: $(tail -n 1 "$dir/install.log" 2> /dev/null)"
}

# environment NAME: a venv, made once
environment()
{
    env=$dir/$1
    [ -x "$env/bin/pip" ] || "$python" -m venv "$env" > "$dir/install.log" 2>&1
}

# install PACKAGE...: into it
install()
{
    "$env/bin/python" -m pip install -q "$@" > "$dir/install.log" 2>&1
}

# PyTorch without what its wheel names for CUDA; the rest with what it needs
install_clients()
{
    install filelock typing-extensions sympy networkx jinja2 fsspec numpy 'setuptools>=77' &&
        install --no-deps torch accelerate peft &&
        "$env/bin/python" "$here/../interop/cuda_stubs.py" > "$dir/install.log" 2>&1 &&
        install transformers safetensors psutil pyyaml tqdm huggingface_hub packaging
}

items=
# add NAME: a script of test/interop in the environment at hand
add()
{
    "$env/bin/python" -m pip list --format=freeze 2> /dev/null | grep -i -e '^torch=' \
        -e '^transformers=' -e '^peft=' -e '^safetensors=' -e '^gguf=' -e '^numpy=' \
        -e '^llama.cpp.python=' | tr '\n' ' ' | sed "s/^/  $1: /; s/ \$/\n/"
    rm -rf "$dir/work/$1"
    mkdir -p "$dir/work/$1"
    items="$items $1=$env"
}

if environment files && install safetensors gguf numpy; then
    add files
else
    skip "no safetensors and gguf from PyPI"
fi
if [ "$which" = all ]; then
    if environment clients && install_clients; then
        add to_clients
        add from_clients
    else
        skip "no PyTorch, transformers and PEFT from PyPI"
    fi
    if [ "${LLAMA_CPP:-}" = no ]; then
        echo "interop: LLAMA_CPP=no, llama.cpp skipped"
    elif environment llama_cpp && install safetensors gguf numpy llama-cpp-python; then
        add llama_cpp_loads
    else
        skip "no llama-cpp-python from PyPI"
    fi
fi
if [ -z "$items" ]; then
    exit 0
fi

set --
for item in $items; do
    name=${item%%=*} env=${item#*=}
    set -- "$@" "interop_$name='$env/bin/python' -W ignore '$here/../interop/$name.py' \
'$program' '$dir/work/$name'"
done
sh "$here/run.sh" "$dir/log" "$@"

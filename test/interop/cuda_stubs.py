"""PyTorch without CUDA's libraries: usage cuda_stubs.py

PyPI has PyTorch for Linux on x86 only as it is built for CUDA: 0.5 GB of its own, and
3 GB of libraries that it is linked with and does not call on a CPU. Where these are
missing, libraries of their names are put beside PyTorch's own, with the functions that it
asks for, each of which returns an error that CUDA gives where there is no device. Needs a C
compiler, nm and readelf. A PyTorch that misses nothing is left alone.
"""
import glob
import importlib.util
import os
import re
import subprocess
import tempfile

# versions of symbols that other libraries have
OTHERS = r"GLIBC|CXXABI|GCC|GFORTRAN|G?OMP|OACC|QUADMATH"
LIBRARIES = r"lib(cu|nv|nccl)"
NO_DEVICE = 100  # cudaErrorNoDevice


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main():
    folder = os.path.join(importlib.util.find_spec("torch").submodule_search_locations[0],
                          "lib")
    defined, wanted, needed = set(), {}, set()
    for file in glob.glob(os.path.join(folder, "*.so*")):
        for line in output("nm", "-D", file).splitlines():
            *_, kind, symbol = line.split()
            name, _, version = symbol.partition("@")
            if kind == "U":
                wanted[name] = version
            elif kind not in "wv":
                defined.add(name)
        needed |= set(re.findall(r"NEEDED.*\[(.*)\]", output("readelf", "-d", file)))
    missing = {name for name in needed if re.match(LIBRARIES, name) and
               not os.path.exists(os.path.join(folder, name))}
    if not missing or importlib.util.find_spec("nvidia") is not None:
        return
    versions = {}
    for name, version in wanted.items():
        if name not in defined and not re.match(OTHERS, version) and \
                not re.match("_?Py", name):
            versions.setdefault(version, []).append(name)
    with tempfile.TemporaryDirectory() as work:
        code, symbols = os.path.join(work, "stub.c"), os.path.join(work, "stub.map")
        with open(code, "w", encoding="utf-8") as file:
            for names in versions.values():
                file.writelines(f"int {name}(void) {{ return {NO_DEVICE}; }}\n"
                                for name in names)
        with open(symbols, "w", encoding="utf-8") as file:
            file.writelines(f"{version} {{ {'; '.join(names)}; }};\n"
                            for version, names in versions.items() if version)
        for name in sorted(missing):
            subprocess.run([os.environ.get("CC", "cc"), "-w", "-fno-builtin", "-shared",
                            "-fPIC", f"-Wl,-soname,{name}",
                            f"-Wl,--version-script,{symbols}", "-o",
                            os.path.join(folder, name), code], check=True)
    print(f"{len(missing)} libraries of CUDA stand in for those that are not there")


if __name__ == "__main__":
    main()

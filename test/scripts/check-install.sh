#!/bin/sh
# Install to a temporary prefix; build a C and a C++ program against it with pkg-config,
# shared and static; run them; uninstall; nothing may remain.
set -eu
make=${MAKE:-make}
cc=${CC:-cc}
pkg_config=${PKG_CONFIG:-pkg-config}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
root=$PWD

set -- "$root"/examples/01_*.c
example=$1
if ! [ -f "$example" ]; then
    echo "install: no examples/01_*.c" >&2
    exit 1
fi
packages=beamlora
if ls lib/io/*.c > /dev/null 2>&1; then
    packages="beamlora beamlora-io"
fi

cat > "$tmp/user.cc" <<'END'
#include <beamlora.h>
#include <cstdio>
#ifdef WITH_IO
#include <beamlora_io.h>
#endif
int main()
{
    bl_options opt;
    if (bl_options_init(&opt, sizeof opt) || bl_version() < 1) {
        return 1;
    }
    opt.method = BL_METHOD_LORA;
    bl_adapter *adapter = nullptr;
    if (bl_adapter_create(&adapter, 8, 4, &opt)) {
        std::printf("%s\n", bl_last_error());
        return 1;
    }
    bl_adapter_free(adapter);
    return 0;
}
END

fail()
{
    echo "install: $*" >&2
    exit 1
}

# try PREFIX NAME FLAGS: build and run both programs
try()
{
    export PKG_CONFIG_PATH="$1/lib/pkgconfig"
    # shellcheck disable=SC2086
    flags=$($pkg_config $3 --cflags --libs $packages) || fail "pkg-config $3 $packages"
    with_io=
    [ "$packages" = beamlora ] || with_io=-DWITH_IO
    # in a directory of its own: the sources must not be in reach
    (
        cd "$tmp"
        # shellcheck disable=SC2086
        $cc -std=c99 ${CFLAGS:-} -o "c-$2" "$example" $flags -lm
        # shellcheck disable=SC2086
        "${CXX:-c++}" -std=c++11 $with_io -o "cxx-$2" user.cc $flags
        LD_LIBRARY_PATH="$1/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
        export LD_LIBRARY_PATH
        "./c-$2" > "c-$2.out" || fail "examples/01 ($2) fails"
        "./cxx-$2" || fail "the C++ program ($2) fails"
    )
}

quiet="$make --no-print-directory"

# everything, by prefix
$quiet install prefix="$tmp/all"
for n in $packages; do
    lib=$tmp/all/lib/lib$n.so
    if ! [ -L "$lib" ] || [ "$(find "$tmp/all/lib" -name "lib$n.so*" | wc -l)" -ne 3 ]; then
        fail "lib$n.so is not a set of three names"
    fi
    [ "$(PKG_CONFIG_PATH="$tmp/all/lib/pkgconfig" $pkg_config --variable=libdir "$n")" = \
        "$tmp/all/lib" ] || fail "$n.pc has another libdir"
done
try "$tmp/all" shared ''
LD_LIBRARY_PATH=$tmp/all/lib ldd "$tmp/c-shared" | grep -q "libbeamlora.so.* => $tmp/all/lib/" ||
    fail "the program does not use the installed library"
if [ -f "$tmp/all/bin/beamlora" ]; then
    # on its own: the libraries are inside
    mv "$tmp/all/bin/beamlora" "$tmp/moved"
    "$tmp/moved" --help > /dev/null || fail "the moved program does not run"
    mv "$tmp/moved" "$tmp/all/bin/beamlora"
fi
for file in man/man1/beamlora.1 man/man1/beamlora-train.1 \
    bash-completion/completions/beamlora zsh/site-functions/_beamlora \
    fish/vendor_completions.d/beamlora.fish; do
    [ -s "$tmp/all/share/$file" ] || fail "share/$file is missing"
done
# pages of other programs are not ours to remove
: > "$tmp/all/share/man/man1/beamloran.1"
$quiet uninstall prefix="$tmp/all"
rm "$tmp/all/share/man/man1/beamloran.1" || fail "uninstall removes pages of others"
left=$(find "$tmp/all" ! -type d)
[ -z "$left" ] || fail "left behind: $left"

# the static libraries alone
$quiet install-headers install-static install-pc prefix="$tmp/static"
try "$tmp/static" static --static
if ldd "$tmp/c-static" | grep -q libbeamlora; then
    fail "the static program needs the shared library"
fi
$quiet uninstall prefix="$tmp/static"
left=$(find "$tmp/static" ! -type d)
[ -z "$left" ] || fail "left behind: $left"

# below DESTDIR, with directories of the user's choice
$quiet install DESTDIR="$tmp/dest dir" prefix=/usr libdir=/usr/lib64 \
    includedir=/usr/include/beamlora mandir=/usr/man bashcompdir=/etc/bash_completion.d
[ -f "$tmp/dest dir/usr/man/man1/beamlora.1" ] || fail "mandir is not respected"
[ -f "$tmp/dest dir/etc/bash_completion.d/beamlora" ] || fail "bashcompdir is not respected"
[ -f "$tmp/dest dir/usr/lib64/libbeamlora.a" ] || fail "libdir is not respected"
[ -f "$tmp/dest dir/usr/include/beamlora/beamlora.h" ] || fail "includedir is not respected"
grep -q -F "libdir=\${prefix}/lib64" "$tmp/dest dir/usr/lib64/pkgconfig/beamlora.pc" ||
    fail "libdir in beamlora.pc is not relative to the prefix"
if grep -r -q -F "$tmp" "$tmp/dest dir"/usr/lib64/pkgconfig; then
    fail "DESTDIR is in a .pc file"
fi
$quiet uninstall DESTDIR="$tmp/dest dir" prefix=/usr libdir=/usr/lib64 \
    includedir=/usr/include/beamlora mandir=/usr/man bashcompdir=/etc/bash_completion.d
left=$(find "$tmp/dest dir" ! -type d)
[ -z "$left" ] || fail "left behind: $left"

echo "install: ok"

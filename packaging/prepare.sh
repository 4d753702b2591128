# shellcheck shell=bash
# Sourced by run and test: what vdbackup needs from the system, and an environment of its own.
#
#   prepare EXTRA PACKAGE...
#
# sees to it that the Debian packages are installed, and that $environment holds a Python
# environment with the project ("" or "[test]" says with which extra) in it. Where something cannot
# be installed it says in one sentence what is missing, and goes on. All it says goes to stderr. A
# second call finds everything in place and costs some hundredths of a second.

checkout=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)

# What the program itself needs; ovmf is for machines that start with UEFI, fuse3 for points that are
# shown as folders. Qt comes from PyPI, but not the system libraries that it uses:
# those of its xcb platform, OpenGL's dispatcher, fonts. What they depend on comes with them.
system_packages=(
    qemu-system-x86 qemu-utils qemu-system-gui ovmf fuse3
    libdbus-1-3 libegl1 libfontconfig1 libgl1 libx11-xcb1 libxcb-cursor0 libxcb-icccm4
    libxcb-keysyms1 libxcb-shape0 libxkbcommon-x11-0 fonts-dejavu-core
)

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "$@"
    exit 1
}

as_root() {  # COMMAND...: run it as root; never asks by itself (sudo may, on a terminal)
    if [[ $EUID -eq 0 ]]; then
        "$@"
    elif ! command -v sudo > /dev/null; then
        return 1
    elif [[ -t 0 ]]; then
        sudo "$@"
    else
        sudo --non-interactive "$@"
    fi
}

apt() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o Dpkg::Use-Pty=0 \
        -o DPkg::Lock::Timeout=300 "$@" >&2
}

missing_packages() {  # PACKAGE...: those that are not installed
    local installed package
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2> /dev/null || true)
    for package in "$@"; do
        [[ $'\n'$installed$'\n' == *$'\n'"installed $package"$'\n'* ]] || printf '%s\n' "$package"
    done
}

install_packages() {  # PACKAGE...
    local missing
    if ! command -v apt-get > /dev/null || ! command -v dpkg-query > /dev/null; then
        command -v qemu-system-x86_64 > /dev/null && command -v qemu-img > /dev/null ||
            say "Please install what these Debian packages are called here: $*."
        return 0
    fi
    mapfile -t missing < <(missing_packages "$@")
    [[ ${#missing[@]} -gt 0 ]] || return 0
    say "Installing ${missing[*]} ..."
    if ! { apt update && apt install --yes --no-install-recommends "${missing[@]}"; }; then
        say "These packages could not be installed; please do it: apt-get install ${missing[*]}"
    fi
}

find_pythons() {  # prints each Python that can make an environment, the system's own first
    local python
    for python in $(type -aP python3 python3.{14..11} | awk '!seen[$0]++'); do
        if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
            2> /dev/null; then
            printf '%s\n' "$python"
        fi
    done
}

python_package() {  # the Debian package that would bring one
    if [[ $(apt-cache policy python3 2> /dev/null) == *"Candidate: 3.10."* ]]; then
        echo python3.11-venv # Ubuntu 22.04
    else
        echo python3-venv
    fi
}

choose_environment() {  # sets $environment: in the checkout if this user may write there
    environment=$checkout/.venv
    if [[ ! -w $checkout || (-e $environment && ! -w $environment) ]]; then
        local name
        name=$(sha256sum <<< "$checkout")
        environment=${XDG_CACHE_HOME:-$HOME/.cache}/vdbackup/environments/${name:0:16}
    fi
}

origin() {  # what $environment was made from; another place or Python makes it useless
    printf '%s\n%s\n' "$checkout" "$(readlink -f "$environment/bin/python")"
}

install_python_packages() {  # EXTRA: into $environment
    say "Installing vdbackup's Python packages into $environment ..."
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check \
        --editable "$checkout$1" >&2
}

refuse_linked_environment() {  # a new one empties its folder: of a link, that of whoever uses it
    [[ -L $environment && -e $environment/bin ]] || return 0
    fail "$environment is a link to $(readlink -f "$environment"), which another checkout may use." \
        "Remove the link; an environment of its own is made then."
}

make_environment() {  # EXTRA: with the first Python for which all packages can be installed
    local python pythons
    mapfile -t pythons < <(find_pythons)
    [[ ${#pythons[@]} -gt 0 ]] ||
        fail "vdbackup needs Python 3.11 or later with its venv module; please install them."
    for python in "${pythons[@]}"; do
        "$python" -m venv --clear "$environment" || continue
        ! install_python_packages "$1" || return 0
        say "With $python that was not possible."
    done
    fail "The Python packages could not be installed; the lines above say why."
}

fill_environment() {  # EXTRA
    local stamp=$environment/installed$1
    if [[ "$(origin)" != "$(cat "$environment/origin" 2> /dev/null)" ]]; then
        refuse_linked_environment
        make_environment "$1"
        origin > "$environment/origin"
    elif cmp -s "$checkout/pyproject.toml" "$stamp"; then
        return
    else
        install_python_packages "$1" ||
            fail "The Python packages could not be installed; the lines above say why."
    fi
    cp "$checkout/pyproject.toml" "$stamp"
    cp "$checkout/pyproject.toml" "$environment/installed" # with an extra, all without it is there, too
}

prepare() {  # EXTRA PACKAGE...
    local extra=$1
    shift
    choose_environment
    [[ -e $environment/origin || -n $(find_pythons) ]] || set -- "$(python_package)" "$@"
    install_packages "$@"
    mkdir -p "$environment"
    exec 9> "$environment/lock" # two calls at once: the second one waits
    flock 9
    fill_environment "$extra"
    exec 9>&-
}

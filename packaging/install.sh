#!/bin/sh
# Installs the Fieldpost agent without a package manager: into this system, or into an image.
#
#   ./install.sh                     install, or upgrade; may be repeated
#   ./install.sh --root DIR          into the image that is mounted at DIR; nothing is started
#   ./install.sh --undo [--root DIR] take away what was installed; configuration, key and spool stay
#   ./install.sh --undo --purge      these too
set -eu
umask 022

here=$(cd "$(dirname "$0")" && pwd)
root= undo= purge=
while [ $# -gt 0 ]; do
    case $1 in
    --root) root=${2:?--root takes a directory}; shift ;;
    --undo) undo=yes ;;
    --purge) purge=yes ;;
    *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 64 ;;
    esac
    shift
done
root=${root%/}
[ -d "$root/" ] || { echo "install.sh: no directory $root" >&2; exit 64; }
[ -w "$root/" ] || { echo "install.sh: $root/ can't be written: not root, or mounted read-only" >&2; exit 77; }

list=$root/usr/share/fieldpost-agent/installed
units=/usr/lib/systemd/system
wants=/etc/systemd/system/multi-user.target.wants
live=
[ -z "$root" ] && [ -d /run/systemd/system ] && live=yes

# Beside the old file and then over it: a power cut leaves one or the other, and a running agent its own.
put() { # MODE FILE PATH
    mkdir -p "$root${3%/*}"
    cp "$here/$2" "$root$3.new"
    chmod "$1" "$root$3.new"
    mv -f "$root$3.new" "$root$3"
    echo "$3" >>"$list.new"
}

# Once: what an administrator disables after that stays disabled.
enable() { # UNIT
    [ -e "$list" ] || { mkdir -p "$root$wants" && ln -sfn "$units/$1" "$root$wants/$1"; }
    echo "$wants/$1" >>"$list.new"
}

# The files of a list, but for those that another one has. No path leads out of the image.
take_away() { # LIST [KEPT]
    while read -r path; do
        case $path in */../* | */..) continue ;; esac
        [ -n "${2:-}" ] && grep -Fqx "$path" "$2" && continue
        rm -f "$root$path"
    done <"$1"
}

# Whether two programs are for the same machine: class, byte order and machine of their ELF headers.
is_like() { # FILE FILE
    [ "$(od -An -tx1 -j4 -N2 "$1")$(od -An -tx1 -j18 -N2 "$1")" = "$(od -An -tx1 -j4 -N2 "$2")$(od -An -tx1 -j18 -N2 "$2")" ]
}

if [ -e "$root/var/lib/dpkg/info/fieldpost-agent.list" ]; then
    echo "install.sh: the Debian package fieldpost-agent is installed: dpkg upgrades and removes it" >&2
    exit 69
fi

if [ "$undo" ]; then
    [ -z "$live" ] || systemctl stop fieldpost-agent 2>/dev/null || true
    if [ -e "$list" ] || [ -e "$list.new" ]; then
        # The second is there alone if an installation was cut short.
        for each in "$list" "$list.new"; do
            [ ! -e "$each" ] || take_away "$each"
        done
        rm -f "$list" "$list.new"
        rmdir "${list%/*}" "$root/usr/share/doc/fieldpost-agent/examples" "$root/usr/share/doc/fieldpost-agent" 2>/dev/null || true
    fi
    if cmp -s "$here/agent.toml" "$root/etc/fieldpost/agent.toml" || [ "$purge" ]; then
        rm -f "$root/etc/fieldpost/agent.toml"
    fi
    if [ "$purge" ]; then
        # A partition may be mounted there: what is in it goes, and the directory where it can.
        for directory in "$root/var/lib/fieldpost" "$root/run/fieldpost-agent"; do
            [ -d "$directory" ] || continue
            find "$directory" -mindepth 1 -delete
            rmdir "$directory" 2>/dev/null || true
        done
    fi
    rmdir "$root/etc/fieldpost" 2>/dev/null || true
    [ -z "$live" ] || systemctl daemon-reload
    echo "the agent is gone"
    exit 0
fi

# The architecture is that of the system's own programs, not the kernel's: a 64-bit kernel may run a 32-bit
# system, whose systemd would kill a 64-bit service.
if [ -e "$root/bin/sh" ] && ! is_like "$here/fieldpost-agent" "$root/bin/sh"; then
    echo "install.sh: fieldpost-agent is for another architecture than ${root:-this system}: another archive is needed" >&2
    exit 69
fi

mkdir -p "${list%/*}"
: >"$list.new"
put 755 fieldpost-agent /usr/bin/fieldpost-agent
put 644 sysusers.conf /usr/lib/sysusers.d/fieldpost-agent.conf
put 644 tmpfiles.conf /usr/lib/tmpfiles.d/fieldpost-agent.conf
put 644 fieldpost-agent-key.service $units/fieldpost-agent-key.service
put 644 fieldpost-agent.service $units/fieldpost-agent.service
put 644 agent.example.toml /usr/share/doc/fieldpost-agent/examples/agent.toml
put 644 devices.conf.example /usr/share/doc/fieldpost-agent/examples/devices.conf
put 644 credential.conf.example /usr/share/doc/fieldpost-agent/examples/credential.conf
put 644 LICENSES /usr/share/doc/fieldpost-agent/LICENSES
enable fieldpost-agent-key.service
enable fieldpost-agent.service
# What an earlier version had and this one has not.
[ ! -e "$list" ] || take_away "$list" "$list.new"
mv -f "$list.new" "$list"
if [ ! -e "$root/etc/fieldpost/agent.toml" ]; then
    mkdir -p "$root/etc/fieldpost"
    cp "$here/agent.toml" "$root/etc/fieldpost/agent.toml"
    chmod 644 "$root/etc/fieldpost/agent.toml"
fi

# An image's own first boot makes the key. Whether it makes the user as well depends on what was booted before.
if [ "$root" ] && command -v systemd-sysusers >/dev/null; then
    systemd-sysusers --root="$root" fieldpost-agent.conf
elif [ "$root" ]; then
    touch "$root/usr"
    echo "install.sh: no systemd-sysusers here: the image makes the user fieldpost-agent at its next boot, if it can write /etc" >&2
else
    if command -v systemd-sysusers >/dev/null; then
        systemd-sysusers fieldpost-agent.conf
    elif ! grep -q '^fieldpost-agent:' /etc/passwd; then
        useradd --system --home-dir /var/lib/fieldpost --shell /usr/sbin/nologin fieldpost-agent
    fi
fi
if [ "$live" ]; then
    systemctl daemon-reload
    if grep -Eq '^[[:space:]]*triggers[[:space:]]*=.*//hub\.example:' /etc/fieldpost/agent.toml; then
        echo "installed; fill in /etc/fieldpost/agent.toml, then: systemctl restart fieldpost-agent"
        exit 0
    fi
    systemctl restart fieldpost-agent
fi
echo "installed"

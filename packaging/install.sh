#!/bin/sh
# Installs the Fieldpost agent without a package manager: into this system, or into an image.
#
#   ./install.sh                     install, or upgrade; may be repeated
#   ./install.sh --root DIR          into the image that is mounted at DIR; nothing is started
#   ./install.sh --undo [--root DIR] take away what was installed; configuration, key and spool stay
#   ./install.sh --undo --purge      these too
set -eu

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
units=/etc/systemd/system
wants=$units/multi-user.target.wants
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

enable() { # UNIT
    mkdir -p "$root$wants"
    ln -sfn "$units/$1" "$root$wants/$1"
    echo "$wants/$1" >>"$list.new"
}

if [ "$undo" ]; then
    [ -z "$live" ] || systemctl stop fieldpost-agent 2>/dev/null || true
    if [ -e "$list" ]; then
        while read -r path; do rm -f "$root$path"; done <"$list"
        rm -f "$list"
        rmdir "${list%/*}" "$root/usr/share/doc/fieldpost-agent/examples" "$root/usr/share/doc/fieldpost-agent" 2>/dev/null || true
    fi
    if cmp -s "$here/agent.toml" "$root/etc/fieldpost/agent.toml" || [ "$purge" ]; then
        rm -f "$root/etc/fieldpost/agent.toml"
    fi
    [ -z "$purge" ] || rm -rf "$root/var/lib/fieldpost" "$root/run/fieldpost-agent"
    rmdir "$root/etc/fieldpost" 2>/dev/null || true
    [ -z "$live" ] || systemctl daemon-reload
    echo "the agent is gone"
    exit 0
fi

# Of the right architecture? In an image that may well not run here.
if [ -z "$root" ] && ! "$here/fieldpost-agent" --version >/dev/null 2>&1; then
    echo "install.sh: fieldpost-agent does not run here ($(uname -m)): another archive is needed" >&2
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
mv -f "$list.new" "$list"
if [ ! -e "$root/etc/fieldpost/agent.toml" ]; then
    mkdir -p "$root/etc/fieldpost"
    cp "$here/agent.toml" "$root/etc/fieldpost/agent.toml"
    chmod 644 "$root/etc/fieldpost/agent.toml"
fi

# In an image its own first boot makes the user and the key; here we do.
if [ -z "$root" ]; then
    if command -v systemd-sysusers >/dev/null; then
        systemd-sysusers fieldpost-agent.conf
    elif ! grep -q '^fieldpost-agent:' /etc/passwd; then
        useradd --system --home-dir /var/lib/fieldpost --shell /usr/sbin/nologin fieldpost-agent
    fi
fi
if [ "$live" ]; then
    systemctl daemon-reload
    if grep -q 'hub\.example' /etc/fieldpost/agent.toml; then
        echo "installed; fill in /etc/fieldpost/agent.toml, then: systemctl restart fieldpost-agent"
        exit 0
    fi
    systemctl restart fieldpost-agent
fi
echo "installed"

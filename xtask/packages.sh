#!/bin/bash
# Installs the packages on a systemd of their own, and uses, upgrades and removes them. `cargo xtask
# packages` runs this as root in a virtual machine, whose files are thrown away afterwards.
#
# usage: packages.sh OLD.deb NEW.deb OLD.rpm NEW.rpm STATIC-PROGRAM

set -eEuo pipefail
trap 'echo "ended with an error: $BASH_COMMAND" >&2' ERR

fail() {
    printf '\npackages failed: %s\n' "$1" >&2
    exit 1
}

say() {
    printf '\n# %s\n' "$1"
}

# Becomes systemd, with no unit but those of packages. Only the mounts of this process are changed.
become_systemd() {
    local directory
    mount -t proc proc /proc
    mount -t tmpfs tmpfs /run
    mount -t tmpfs tmpfs /etc/systemd/system
    for directory in sysinit timers sockets multi-user; do
        directory=/usr/lib/systemd/system/$directory.target.wants
        [ ! -d "$directory" ] || mount -t tmpfs tmpfs "$directory"
    done
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mkdir -p /run/systemd/system
    for directory in packages sysinit basic; do
        printf '[Unit]\nDefaultDependencies=no\n' >"/run/systemd/system/$directory.target"
    done
    container=other exec /lib/systemd/systemd --system --unit=packages.target \
        --log-target=null --show-status=no
}

# Runs this script again as a child of that systemd.
under_systemd() {
    [ "$(uname -n)" = meshsec-vm ] || fail 'this is for a machine whose files are thrown away'
    # Debian's images for containers forbid the start of services, and leave manuals out.
    rm -rf /usr/sbin/policy-rc.d /etc/dpkg/dpkg.cfg.d/*
    unshare --fork --kill-child --pid --mount --cgroup "$0" become-systemd \
        </dev/null >/dev/null 2>&1 &
    local unshare=$! process='' tries
    for tries in $(seq 300); do
        process=$(cat "/proc/$unshare/task/$unshare/children") || fail 'systemd has ended'
        process=${process%% *}
        if [ -n "$process" ] && systemctl_in "$process" is-active --quiet packages.target; then
            status=0
            nsenter -t "$process" --mount --pid "$0" as-a-host "$@" || status=$?
            exit "$status"
        fi
        sleep 0.1
    done
    fail "systemd was not up after $tries tries"
}

systemctl_in() {
    nsenter -t "$1" --mount --pid systemctl "${@:2}" 2>/dev/null
}

# Checks.

# equal WHAT IS SHOULD-BE
equal() {
    [ "$2" = "$3" ] || fail "$1 is: $2"$'\n'"and should be: $3"
}

# All that meshsec puts into the kernel.
in_kernel() {
    ip xfrm state
    ip xfrm policy
    iptables -t mangle -S
    ip6tables -t mangle -S
}

timer() {
    # Both end with a status of their own.
    systemctl is-enabled meshsec.timer 2>/dev/null || true
    systemctl is-active meshsec.timer || true
}

# Every unit of meshsec that was started or enabled.
busy_units() {
    systemctl list-units --no-legend 'meshsec*'
    systemctl list-unit-files --no-legend --state=enabled 'meshsec*' || true
}

# What an operator finds after the installation.
is_installed() {
    equal 'the mode of /etc/meshsec' "$(stat -c '%a %U:%G' /etc/meshsec)" '700 root:root'
    equal 'what the installation has put into the kernel' "$(in_kernel)" "$empty"
    equal 'what the installation has started or enabled' "$(busy_units)" ''
    man --where 8 meshsec
    man --where 5 meshsec.toml
    bash -c 'source /usr/share/bash-completion/completions/meshsec && complete -p meshsec'
    local unit verified
    for unit in meshsec.service meshsec.timer meshsec-encap@4500.socket \
        meshsec-encap6@4500.socket meshsec-encap@4500.service; do
        verified=$(systemd-analyze verify "$unit" 2>&1)
        equal "what systemd says of $unit" "$verified" ''
    done
}

# A mesh of this host and one that is not there.
write_mesh() {
    (umask 077 && meshsec genpsk >/etc/meshsec/mesh.key)
    cat >/etc/meshsec/mesh.toml <<END
[mesh]
name = "packages"
[traffic]
kind = "vxlan"
[keys]
mesh_key = { file = "mesh.key" }
[rotation]
generation = 1
[[peer]]
name     = "$(uname -n)"
short_id = 1
address  = "192.0.2.1"
[[peer]]
name     = "b"
short_id = 2
address  = "192.0.2.2"
END
}

# By hand, and then by the units.
is_used() {
    meshsec validate
    meshsec plan | tail -n 1
    meshsec apply --auto-approve | tail -n 1
    meshsec plan --detailed-exitcode | tail -n 1
    meshsec destroy --auto-approve | tail -n 1
    equal 'what is left in the kernel' "$(in_kernel)" "$empty"
    systemctl enable --quiet --now meshsec.service meshsec.timer meshsec-encap@4500.socket
    meshsec plan --detailed-exitcode | tail -n 1
    applied=$(in_kernel)
    kept=$(sha256sum /etc/meshsec/*)
    equal 'the timer' "$(timer)" $'enabled\nactive'
}

# What no upgrade and no removal may change.
is_kept() {
    equal 'what is in the kernel' "$(in_kernel)" "$applied"
    equal 'what is in /etc/meshsec' "$(sha256sum /etc/meshsec/*)" "$kept"
    equal 'the mode of /etc/meshsec' "$(stat -c %a /etc/meshsec)" 700
    equal 'the socket of ESP in UDP' "$(systemctl is-active meshsec-encap@4500.socket)" active
}

is_upgraded() {
    is_kept
    equal 'the timer' "$(timer)" $'enabled\nactive'
    equal 'the need to reload units' \
        "$(systemctl show --value -p NeedDaemonReload meshsec.service)" no
    meshsec plan --detailed-exitcode | tail -n 1
}

is_removed() {
    is_kept
    [ ! -e /usr/bin/meshsec ] || fail 'the program is still there'
    local directory
    for directory in doc licenses; do
        directory=/usr/share/$directory/meshsec
        [ ! -e "$directory" ] || fail "left behind: $(find "$directory")"
    done
    equal 'the timer' "$(systemctl is-active meshsec.timer || true)" inactive
}

# Links that systemctl enable has made.
links() {
    find /etc/systemd/system -name 'meshsec*' | wc -l
}

reset() {
    meshsec destroy --auto-approve | tail -n 1
    systemctl disable --quiet --now meshsec.service meshsec.timer meshsec-encap@4500.socket
    systemctl reset-failed
}

debian() {
    local said
    say 'Debian: install the older package, and use it'
    dpkg --no-triggers -i "$1"
    is_installed
    zsh -fc 'autoload -U compinit && compinit -u && echo "zsh: $_comps[meshsec]"' | grep _meshsec
    fish -c 'complete --do-complete "meshsec appl"' | grep '^apply'
    dpkg -V meshsec
    write_mesh
    is_used
    say 'Debian: upgrade'
    dpkg --no-triggers -i "$2"
    is_upgraded
    say 'Debian: remove, and install again'
    dpkg --no-triggers -r meshsec
    is_removed
    equal 'the number of links' "$(links)" 3
    dpkg --no-triggers -i "$2"
    is_kept
    equal 'the timer' "$(timer)" $'enabled\ninactive'
    systemctl start meshsec.timer
    say 'Debian: purge'
    said=$(dpkg --no-triggers -P meshsec 2>&1)
    printf '%s\n' "$said"
    is_removed
    [[ $said == */etc/meshsec\ may\ hold\ secrets* ]] || fail 'the purge does not say what it leaves'
    equal 'the number of links' "$(links)" 0
    say 'Debian: purge without files'
    dpkg --no-triggers -i "$2"
    reset
    rm /etc/meshsec/*
    dpkg --no-triggers -P meshsec
    [ ! -e /etc/meshsec ] || fail 'an empty /etc/meshsec is left'
}

rpm() {
    # A list of packages of its own, in which nothing is that a package could depend on.
    command rpm --dbpath /run/rpm --nodeps "$@"
}

rpms() {
    say 'RPM: install the older package, and use it'
    rpm -i "$1"
    is_installed
    write_mesh
    is_used
    say 'RPM: upgrade'
    rpm -U "$2"
    is_upgraded
    say 'RPM: remove'
    rpm -e meshsec
    is_removed
    equal 'the number of links' "$(links)" 0
}

# The static program in a root that holds nothing else, as in an image made from scratch: all of the
# host that it has is the network, and CAP_NET_ADMIN.
static() {
    say 'The static program alone, with CAP_NET_ADMIN alone'
    local root=/run/root
    mkdir -p "$root/etc/meshsec" "$root/proc"
    cp "$1" "$root/meshsec"
    cp /etc/meshsec/* "$root/etc/meshsec"
    mount -t proc proc "$root/proc"
    inside() {
        setpriv --bounding-set=-all,+net_admin,+sys_chroot --inh-caps=-all \
            chroot "$root" /meshsec --local "$(uname -n)" "$@"
    }
    # Only out here is there an iptables, to be rid of the chains of the RPM's mesh.
    "$1" destroy --auto-approve | tail -n 1
    equal 'what is left in the kernel' "$(in_kernel)" "$empty"
    inside plan | tail -n 1
    inside apply --auto-approve | tail -n 1
    inside plan --detailed-exitcode | tail -n 1
    inside destroy --auto-approve | tail -n 1
    equal 'what is left in the kernel' "$(in_kernel)" "$empty"
}

as_a_host() {
    ip link add eth0 type dummy
    ip address add 192.0.2.1/24 dev eth0
    ip link set dev eth0 up
    # Both make their tables when they are first asked.
    in_kernel >/dev/null
    empty=$(in_kernel)
    debian "$1" "$2"
    rpms "$3" "$4"
    static "$5"
    printf '\nPackages passed.\n'
}

case $1 in
become-systemd) become_systemd ;;
as-a-host) as_a_host "${@:2}" ;;
*) under_systemd "$@" ;;
esac

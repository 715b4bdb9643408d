#!/bin/bash
# A mesh of three hosts, from plan to destroy, with proof from the wire. `cargo xtask demo` runs
# this as root on a kernel with ESP. The hosts are network namespaces a, b and c; the namespace
# underlay is the network between them, and the place to listen.
#
# usage: demo.sh /path/to/meshsec

set -euo pipefail

meshsec=$1
hosts=(a b c)
namespaces=("${hosts[@]}" underlay)
made=()
directory=$(mktemp -d)
capture_id=

clean_up() {
    if [ -n "$capture_id" ]; then
        kill "$capture_id" 2>/dev/null || true
    fi
    for namespace in "${made[@]}"; do
        ip netns delete "$namespace" || true
    done
    rm -rf "$directory"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

fail() {
    printf '\ndemo failed: %s\n' "$1" >&2
    exit 1
}

say() {
    printf '\n# %s\n' "$1"
}

# on HOST COMMAND...: shows a command as it would be typed on that host, and runs it there.
on() {
    printf '\n%s$ %s\n' "$1" "${*:2}"
    quietly_on "$@"
}

quietly_on() {
    local host=$1
    shift
    if [ "$1" = meshsec ]; then
        shift
        set -- "$meshsec" -c "$directory/mesh.toml" "$@"
    fi
    ip netns exec "$host" "$@"
}

# on_all COMMAND...: runs a command on every host; output that differs little from host a is cut short.
on_all() {
    local host
    on a "$@"
    for host in b c; do
        printf '\n%s$ %s | tail -n 1\n' "$host" "$*"
        quietly_on "$host" "$@" | tail -n 1
    done
}

# Network: three hosts on one switch, and a VXLAN between them that nothing protects yet.

make_namespaces() {
    local namespace
    for namespace in "${namespaces[@]}"; do
        if [ -e "/run/netns/$namespace" ]; then
            fail "the network namespace $namespace exists; remove it or use --kernel 6.12"
        fi
    done
    for namespace in "${namespaces[@]}"; do
        ip netns add "$namespace"
        made+=("$namespace")
        ip -n "$namespace" link set dev lo up
    done
    ip -n underlay link add br0 type bridge
    ip -n underlay link set dev br0 up
}

connect() {
    local host=$1 number=$2 peer
    ip -n "$host" link add eth0 type veth peer name "$host" netns underlay
    ip -n underlay link set dev "$host" master br0 up
    ip -n "$host" address add "192.0.2.$number/24" dev eth0
    ip -n "$host" link set dev eth0 up
    ip -n "$host" link add vxlan42 type vxlan id 42 dstport 4789 local "192.0.2.$number" dev eth0
    for peer in 1 2 3; do
        if [ "$peer" != "$number" ]; then
            bridge -n "$host" fdb append 00:00:00:00:00:00 dev vxlan42 dst "192.0.2.$peer"
        fi
    done
    ip -n "$host" address add "10.42.0.$number/24" dev vxlan42
    # No IPv6 inside, so that the capture shows the pings and little else.
    ip -n "$host" link set dev vxlan42 addrgenmode none
    ip -n "$host" link set dev vxlan42 up
}

write_mesh() {
    cat >"$directory/mesh.toml" <<'END'
[mesh]
name = "demo"

[traffic]
kind = "vxlan"

[keys]
mesh_key = { file = "mesh.key" }

[rotation]
generation = 1

[[peer]]
name     = "a"
short_id = 1
address  = "192.0.2.1"

[[peer]]
name     = "b"
short_id = 2
address  = "192.0.2.2"

[[peer]]
name     = "c"
short_id = 3
address  = "192.0.2.3"
END
}

# The wire: the packets that pass the switch between start_capture and stop_capture.

start_capture() {
    # Immediate mode: packets are not held back in a buffer that the end would cut off.
    ip netns exec underlay tcpdump -i br0 -n --immediate-mode -U -w "$directory/wire.pcap" ip \
        2>"$directory/tcpdump.log" &
    capture_id=$!
    local tries
    for tries in $(seq 100); do
        if grep -q 'listening on' "$directory/tcpdump.log"; then
            return
        fi
        sleep 0.1
    done
    fail "tcpdump did not start after $tries tries: $(cat "$directory/tcpdump.log")"
}

stop_capture() {
    # The last packet may still be on its way to the file.
    sleep 1
    kill "$capture_id"
    wait "$capture_id" || true
    capture_id=
}

captured() {
    tcpdump -n -t -r "$directory/wire.pcap" "$@" 2>/dev/null
}

count() {
    captured "$@" | wc -l
}

make_namespaces
number=0
for host in "${hosts[@]}"; do
    number=$((number + 1))
    connect "$host" "$number"
done
write_mesh

say 'Three hosts and a VXLAN between them. Nothing protects it yet:'
start_capture
on a ping -c 1 -W 5 10.42.0.2 || fail 'no connection even without meshsec'
stop_capture
clear=$(count udp port 4789)
printf '\nclear-text packets on UDP 4789: %s\n' "$clear"
# A search that cannot find a clear-text packet here would prove nothing below.
[ "$clear" -ge 2 ] || fail 'the capture misses clear-text packets'

say 'One file describes the mesh, and is the same on every host:'
printf '\n$ meshsec genpsk > mesh.key\n'
(umask 077 && "$meshsec" genpsk >"$directory/mesh.key")
printf '\n$ cat mesh.toml\n'
cat "$directory/mesh.toml"

say 'What has to change on host a:'
on a meshsec plan

say 'Do it, on every host:'
on_all meshsec apply --auto-approve

say 'The same traffic again, seen from the network between the hosts:'
start_capture
on a ping -c 3 -W 5 10.42.0.2 || fail 'ping does not get through'
stop_capture
printf '\nunderlay$ tcpdump -i br0\n'
captured 'esp or udp port 4789'
encrypted=$(count esp)
clear=$(count udp port 4789)
printf '\nencrypted packets: %s\n' "$encrypted"
printf 'clear-text packets on UDP 4789: %s\n' "$clear"
[ "$clear" -eq 0 ] || fail 'clear text on the wire'
[ "$encrypted" -ge 6 ] || fail 'fewer than six encrypted packets for three pings'

say 'A second plan has nothing to do:'
on a meshsec plan | tee "$directory/plan"
grep -q '^No changes' "$directory/plan" || fail 'the second plan is not empty'

say 'And away with it:'
on_all meshsec destroy --auto-approve
for host in "${hosts[@]}"; do
    left=$(ip netns exec "$host" ip xfrm state; ip netns exec "$host" ip xfrm policy)
    [ -z "$left" ] || fail "left behind on $host: $left"
done

printf '\nDemo passed.\n'

#!/bin/sh
# Nothing is enabled or started: until /etc/meshsec/mesh.toml is there, nothing can be.
[ -d /etc/meshsec ] || install -d -m 0700 /etc/meshsec
# Timers and sockets that run go on, with the new units.
[ ! -d /run/systemd/system ] || systemctl daemon-reload || true

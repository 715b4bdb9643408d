#!/bin/sh
# Writes the metrics of meshsec where the textfile collector of node_exporter reads them:
#
#   meshsec-metrics DIRECTORY [OPTION...]
#
# with the global options of meshsec, such as -c FILE. meshsec-metrics.timer runs it every minute.
set -eu

directory=$1
shift
# The collector reads no file but *.prom, and so none that is half written.
new=$(mktemp "$directory/.meshsec.XXXXXX")
trap 'rm -f "$new"' EXIT

# Status 2 is that somebody should look, which the metrics tell. After an error the old file stays:
# MeshsecStatusOld is the alert for it.
meshsec "$@" --format prometheus status >"$new" || [ $? -eq 2 ]
chmod 644 "$new"
mv "$new" "$directory/meshsec.prom"

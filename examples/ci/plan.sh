#!/bin/sh
# Plans every host of a mesh, and prints Markdown for a comment on the change:
#
#   plan.sh FILE [SNAPSHOTS] >plan.md
#
# FILE is mesh.toml. SNAPSHOTS is a folder with the output of `meshsec snapshot` on the hosts; without
# it every host is planned as one that holds nothing. No privilege, no kernel and no secret is needed.
# The exit status is 1 if the file is not valid, if an apply would meet a conflict, or if two hosts
# would not understand each other. The sums are also written to the file that PLAN_JSON names, in
# the form of GitLab's report of Terraform.
#
# Texts can hold words of the file, and so of the author of a change: jq's @html keeps them text.
set -eu

file=$1
snapshots=${2:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# refused NAME: prints the errors of a command, and ends.
refused() {
    if ! jq -e .errors "$work/errors" >/dev/null 2>&1; then
        cat "$work/errors" >&2
        exit 1
    fi
    jq -r --arg what "$1" '
        "\($what)\n\n<pre>",
        (.errors[] | "\([.file, .line, .column | values] | join(":")): \(.text)\(if .hint then "; \(.hint)" else "" end)" | @html),
        "</pre>"' "$work/errors"
    exit 1
}

echo '<!-- meshsec -->'
meshsec -c "$file" --format json validate --without-secrets >"$work/valid" 2>"$work/errors" ||
    refused '### meshsec: the file is **not valid**'

# A conflict is status 1, with a document.
if [ -n "$snapshots" ]; then
    meshsec -c "$file" --format json plan --all --live "$snapshots" >"$work/all" 2>"$work/errors" || true
else
    meshsec -c "$file" --format json plan --all >"$work/all" 2>"$work/errors" || true
fi
jq -e .hosts "$work/all" >/dev/null 2>&1 || refused '### meshsec: there is **no plan**'

jq -r --arg folder "$snapshots" '
    .hosts[] | [.peer, if .snapshot then "\($folder)/\(.snapshot)" else "empty" end] | @tsv' \
    "$work/all" >"$work/hosts"
tab=$(printf '\t')
while IFS="$tab" read -r host live; do
    meshsec -c "$file" --format json --local "$host" plan --live "$live" \
        >"$work/plan" 2>"$work/errors" || jq -e .changes "$work/plan" >/dev/null 2>&1 ||
        refused "### meshsec: $host has **no plan**"
    cat "$work/plan" >>"$work/plans"
done <"$work/hosts"

if [ -n "${PLAN_JSON:-}" ]; then
    jq -s '{create: map(.summary.create) | add, update: map(.summary.update + .summary.replace) | add,
        delete: map(.summary.delete) | add}' "$work/plans" >"$PLAN_JSON"
fi

# A comment has at most 65,536 characters: the first changes and warnings tell the rest.
jq -rs '
    def most($n): .[:$n][], (if length > $n then "… and \(length - $n) more" else empty end);
    def sign: {create: "+", update: "~", replace: "-/+", delete: "-"}[.];
    def total($part): map(.summary[$part]) | add;
    def lines: (.conflicts | map("conflict \(.code): \(.text)") | most(5)),
        (.warnings | map("warning \(.code): \(.text)") | most(5)),
        (.changes | map("\(.action | sign) \(.kind) \(.id)\(if .peer then " (peer \(.peer))" else "" end): \(.reason.text)") | most(20));

    "### meshsec: mesh \(.[0].mesh | @html), \(length) hosts: \(total("create")) to create, \(total("update")) to update, \(total("replace")) to replace, \(total("delete")) to delete",
    (if any(.[]; .conflicts != []) then "\n**Foreign objects are in the way: apply would do a part.**" else empty end),
    "\n| host | generation | create | update | replace | delete | conflicts | warnings |",
    "|---|---|---|---|---|---|---|---|",
    (sort_by(.conflicts == [], .changes == [])[:100][] |
        "| \(.local | @html) | \(.generation) | \(.summary | "\(.create) | \(.update) | \(.replace) | \(.delete)") | \(.conflicts | length) | \(.warnings | map(.code) | unique | join(", ")) |"),
    (sort_by(.conflicts == [], .changes == []) | map(select(.changes != [] or .conflicts != [])) |
        (.[:10][] | "\n<details><summary>\(.local | @html)</summary>\n\n<pre>", (lines | @html), "</pre></details>"),
        (if length > 10 then "\n… and \(length - 10) more hosts" else empty end))' "$work/plans"

jq -r '.missing // [] | if . == [] then empty else "\nWithout a snapshot, and so without a plan: \(join(", ") | @html)" end' "$work/all"
jq -r '.pairs.disagreements // [] | if . == [] then empty else "\n**Pairs disagree:**\n\n<pre>", (.[] | tojson | @html), "</pre>" end' "$work/all"
jq -es 'all(.[]; .conflicts == [])' "$work/plans" >/dev/null &&
    jq -e '.pairs.disagreements // [] | . == []' "$work/all" >/dev/null

# ShortIDs for the hosts of an inventory, as docs/inventories.md uses it.
#
# The input is an array of objects with name and address, and any other key of [[peer]]. $old is the
# peers.json of before, as --slurpfile reads it: a host that is in it keeps its ShortID and the keys
# that the input does not have. A new host gets the lowest ShortID that is neither in $old nor in
# $taken. So the ShortID of a host that has left is free from the next update on, and not before.
def short_ids($old; $taken):
  . as $hosts
  | ($old | map(.peer[])) as $before
  | ($before | map({(.name): .}) | add // {}) as $known
  | ([range(1; 4096)] - ($before | map(.short_id)) - $taken) as $free
  | ($hosts | map(.name | select(in($known) | not)) | unique) as $new
  | (reduce range($new | length) as $i ({}; .[$new[$i]] = $free[$i])) as $given
  | if $hosts == [] then error("the inventory has no host")
    elif ($new | length) > ($free | length) then error("no ShortID is left")
    else { peer: ($hosts | map({name, short_id: $given[.name]} + $known[.name] + .) | sort_by(.short_id)) }
    end;

def short_ids($old): short_ids($old; []);

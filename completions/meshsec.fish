# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_meshsec_global_optspecs
    string join \n c/config= local= netns= format= h/help V/version
end

function __fish_meshsec_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_meshsec_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_meshsec_using_subcommand
    set -l cmd (__fish_meshsec_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c meshsec -n "__fish_meshsec_needs_command" -s c -l config -d 'The mesh\'s file, or - for standard input; by default /etc/meshsec/mesh.toml' -r -F
complete -c meshsec -n "__fish_meshsec_needs_command" -l local -d 'The peer that this host is; by default the one whose address it has' -r
complete -c meshsec -n "__fish_meshsec_needs_command" -l netns -d 'Work in this network namespace, as `ip netns` names it' -r
complete -c meshsec -n "__fish_meshsec_needs_command" -l format -d 'How to print' -r -f -a "text\t'For people'
json\t'For programs'
prometheus\t'For Prometheus, by node_exporter\'s textfile collector; status only'"
complete -c meshsec -n "__fish_meshsec_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c meshsec -n "__fish_meshsec_needs_command" -s V -l version -d 'Print version'
complete -c meshsec -n "__fish_meshsec_needs_command" -f -a "validate" -d 'Check the file and its secrets; needs no privilege'
complete -c meshsec -n "__fish_meshsec_needs_command" -f -a "plan" -d 'Show what apply would do'
complete -c meshsec -n "__fish_meshsec_needs_command" -f -a "apply" -d 'Show the plan, ask, do it and prove that it is done'
complete -c meshsec -n "__fish_meshsec_needs_command" -f -a "destroy" -d 'Remove everything of this mesh from this host; needs no secret'
complete -c meshsec -n "__fish_meshsec_needs_command" -f -a "confirm" -d 'Keep what an apply or destroy with --confirm-within has done'
complete -c meshsec -n "__fish_meshsec_needs_command" -f -a "show" -d 'Show live objects in the file\'s words'
complete -c meshsec -n "__fish_meshsec_needs_command" -f -a "status" -d 'Show whether each peer is protected; exit with 2 if somebody should look'
complete -c meshsec -n "__fish_meshsec_needs_command" -f -a "snapshot" -d 'Print the live state as JSON, without keys: input of plan --live FILE'
complete -c meshsec -n "__fish_meshsec_needs_command" -f -a "mtu" -d 'Show how large a packet may be, part by part; needs no privilege'
complete -c meshsec -n "__fish_meshsec_needs_command" -f -a "genkey" -d 'Print a new X25519 private key, as wg genkey does'
complete -c meshsec -n "__fish_meshsec_needs_command" -f -a "genpsk" -d 'Print a new 32-byte secret, as wg genpsk does'
complete -c meshsec -n "__fish_meshsec_needs_command" -f -a "pubkey" -d 'Print the public key of a private key on standard input, as wg pubkey does'
complete -c meshsec -n "__fish_meshsec_needs_command" -f -a "rotate" -d 'Raise generation in the file by one, and change nothing else in it'
complete -c meshsec -n "__fish_meshsec_needs_command" -f -a "settled" -d 'Tell whether all hosts have applied the generation; exit with 2 if they are not known to'
complete -c meshsec -n "__fish_meshsec_needs_command" -f -a "ratchet" -d 'Make the ratchet of the file, or turn it'
complete -c meshsec -n "__fish_meshsec_needs_command" -f -a "spi" -d 'Decode an SPI into generation, lane, from and to'
complete -c meshsec -n "__fish_meshsec_needs_command" -f -a "encap-socket" -d 'Make the sockets that systemd passes take ESP out of UDP; for meshsec-encap@.service'
complete -c meshsec -n "__fish_meshsec_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c meshsec -n "__fish_meshsec_using_subcommand validate" -s c -l config -d 'The mesh\'s file, or - for standard input; by default /etc/meshsec/mesh.toml' -r -F
complete -c meshsec -n "__fish_meshsec_using_subcommand validate" -l local -d 'The peer that this host is; by default the one whose address it has' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand validate" -l netns -d 'Work in this network namespace, as `ip netns` names it' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand validate" -l format -d 'How to print' -r -f -a "text\t'For people'
json\t'For programs'
prometheus\t'For Prometheus, by node_exporter\'s textfile collector; status only'"
complete -c meshsec -n "__fish_meshsec_using_subcommand validate" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c meshsec -n "__fish_meshsec_using_subcommand plan" -l live -d 'Compare with the kernel, with an empty host, or with a snapshot\'s FILE' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand plan" -l out -d 'Save the plan for apply FILE, which performs it only if nothing has changed' -r -F
complete -c meshsec -n "__fish_meshsec_using_subcommand plan" -s c -l config -d 'The mesh\'s file, or - for standard input; by default /etc/meshsec/mesh.toml' -r -F
complete -c meshsec -n "__fish_meshsec_using_subcommand plan" -l local -d 'The peer that this host is; by default the one whose address it has' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand plan" -l netns -d 'Work in this network namespace, as `ip netns` names it' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand plan" -l format -d 'How to print' -r -f -a "text\t'For people'
json\t'For programs'
prometheus\t'For Prometheus, by node_exporter\'s textfile collector; status only'"
complete -c meshsec -n "__fish_meshsec_using_subcommand plan" -l detailed-exitcode -d 'Exit with 2 if there are changes'
complete -c meshsec -n "__fish_meshsec_using_subcommand plan" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c meshsec -n "__fish_meshsec_using_subcommand apply" -l lock-timeout -d 'How long to wait for another run in this network namespace, such as 500ms or 2m' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand apply" -l confirm-within -d 'Take all back unless `meshsec confirm` is run in this time, from 1s to 24h' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand apply" -s c -l config -d 'The mesh\'s file, or - for standard input; by default /etc/meshsec/mesh.toml' -r -F
complete -c meshsec -n "__fish_meshsec_using_subcommand apply" -l local -d 'The peer that this host is; by default the one whose address it has' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand apply" -l netns -d 'Work in this network namespace, as `ip netns` names it' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand apply" -l format -d 'How to print' -r -f -a "text\t'For people'
json\t'For programs'
prometheus\t'For Prometheus, by node_exporter\'s textfile collector; status only'"
complete -c meshsec -n "__fish_meshsec_using_subcommand apply" -l auto-approve -d 'Don\'t ask'
complete -c meshsec -n "__fish_meshsec_using_subcommand apply" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c meshsec -n "__fish_meshsec_using_subcommand destroy" -l lock-timeout -d 'How long to wait for another run in this network namespace, such as 500ms or 2m' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand destroy" -l confirm-within -d 'Take all back unless `meshsec confirm` is run in this time, from 1s to 24h' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand destroy" -l mesh -d 'Without a file: the mesh of this name, under the reqid that follows from the name' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand destroy" -l reqid -d 'Without a file: the mesh with this reqid, such as 0x4d53a511' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand destroy" -s c -l config -d 'The mesh\'s file, or - for standard input; by default /etc/meshsec/mesh.toml' -r -F
complete -c meshsec -n "__fish_meshsec_using_subcommand destroy" -l local -d 'The peer that this host is; by default the one whose address it has' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand destroy" -l netns -d 'Work in this network namespace, as `ip netns` names it' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand destroy" -l format -d 'How to print' -r -f -a "text\t'For people'
json\t'For programs'
prometheus\t'For Prometheus, by node_exporter\'s textfile collector; status only'"
complete -c meshsec -n "__fish_meshsec_using_subcommand destroy" -l auto-approve -d 'Don\'t ask'
complete -c meshsec -n "__fish_meshsec_using_subcommand destroy" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c meshsec -n "__fish_meshsec_using_subcommand confirm" -s c -l config -d 'The mesh\'s file, or - for standard input; by default /etc/meshsec/mesh.toml' -r -F
complete -c meshsec -n "__fish_meshsec_using_subcommand confirm" -l local -d 'The peer that this host is; by default the one whose address it has' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand confirm" -l netns -d 'Work in this network namespace, as `ip netns` names it' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand confirm" -l format -d 'How to print' -r -f -a "text\t'For people'
json\t'For programs'
prometheus\t'For Prometheus, by node_exporter\'s textfile collector; status only'"
complete -c meshsec -n "__fish_meshsec_using_subcommand confirm" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c meshsec -n "__fish_meshsec_using_subcommand show" -l mesh -d 'Without a file: the mesh of this name, under the reqid that follows from the name' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand show" -l reqid -d 'Without a file: the mesh with this reqid, such as 0x4d53a511' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand show" -s c -l config -d 'The mesh\'s file, or - for standard input; by default /etc/meshsec/mesh.toml' -r -F
complete -c meshsec -n "__fish_meshsec_using_subcommand show" -l local -d 'The peer that this host is; by default the one whose address it has' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand show" -l netns -d 'Work in this network namespace, as `ip netns` names it' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand show" -l format -d 'How to print' -r -f -a "text\t'For people'
json\t'For programs'
prometheus\t'For Prometheus, by node_exporter\'s textfile collector; status only'"
complete -c meshsec -n "__fish_meshsec_using_subcommand show" -l all -d 'List foreign objects too'
complete -c meshsec -n "__fish_meshsec_using_subcommand show" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c meshsec -n "__fish_meshsec_using_subcommand status" -l wait-heard -d 'Wait until every peer was heard, or exit with 2 when this time is up' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand status" -l watch -d 'Look again and again, by default every 2s, and show which counters move' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand status" -l mesh -d 'Without a file: the mesh of this name, under the reqid that follows from the name' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand status" -l reqid -d 'Without a file: the mesh with this reqid, such as 0x4d53a511' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand status" -s c -l config -d 'The mesh\'s file, or - for standard input; by default /etc/meshsec/mesh.toml' -r -F
complete -c meshsec -n "__fish_meshsec_using_subcommand status" -l local -d 'The peer that this host is; by default the one whose address it has' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand status" -l netns -d 'Work in this network namespace, as `ip netns` names it' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand status" -l format -d 'How to print' -r -f -a "text\t'For people'
json\t'For programs'
prometheus\t'For Prometheus, by node_exporter\'s textfile collector; status only'"
complete -c meshsec -n "__fish_meshsec_using_subcommand status" -s v -l verbose -d 'Show all that is known of every peer'
complete -c meshsec -n "__fish_meshsec_using_subcommand status" -l strict -d 'Exit with 2 for a silent peer, whatever kind of traffic is protected'
complete -c meshsec -n "__fish_meshsec_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c meshsec -n "__fish_meshsec_using_subcommand snapshot" -s c -l config -d 'The mesh\'s file, or - for standard input; by default /etc/meshsec/mesh.toml' -r -F
complete -c meshsec -n "__fish_meshsec_using_subcommand snapshot" -l local -d 'The peer that this host is; by default the one whose address it has' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand snapshot" -l netns -d 'Work in this network namespace, as `ip netns` names it' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand snapshot" -l format -d 'How to print' -r -f -a "text\t'For people'
json\t'For programs'
prometheus\t'For Prometheus, by node_exporter\'s textfile collector; status only'"
complete -c meshsec -n "__fish_meshsec_using_subcommand snapshot" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c meshsec -n "__fish_meshsec_using_subcommand mtu" -l underlay-mtu -d 'The MTU below, where this is not the host; by default that of the local address\'s device' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand mtu" -l inner-mtu -d 'What is needed below for packets of this length inside' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand mtu" -s c -l config -d 'The mesh\'s file, or - for standard input; by default /etc/meshsec/mesh.toml' -r -F
complete -c meshsec -n "__fish_meshsec_using_subcommand mtu" -l local -d 'The peer that this host is; by default the one whose address it has' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand mtu" -l netns -d 'Work in this network namespace, as `ip netns` names it' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand mtu" -l format -d 'How to print' -r -f -a "text\t'For people'
json\t'For programs'
prometheus\t'For Prometheus, by node_exporter\'s textfile collector; status only'"
complete -c meshsec -n "__fish_meshsec_using_subcommand mtu" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c meshsec -n "__fish_meshsec_using_subcommand genkey" -s c -l config -d 'The mesh\'s file, or - for standard input; by default /etc/meshsec/mesh.toml' -r -F
complete -c meshsec -n "__fish_meshsec_using_subcommand genkey" -l local -d 'The peer that this host is; by default the one whose address it has' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand genkey" -l netns -d 'Work in this network namespace, as `ip netns` names it' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand genkey" -l format -d 'How to print' -r -f -a "text\t'For people'
json\t'For programs'
prometheus\t'For Prometheus, by node_exporter\'s textfile collector; status only'"
complete -c meshsec -n "__fish_meshsec_using_subcommand genkey" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c meshsec -n "__fish_meshsec_using_subcommand genpsk" -s c -l config -d 'The mesh\'s file, or - for standard input; by default /etc/meshsec/mesh.toml' -r -F
complete -c meshsec -n "__fish_meshsec_using_subcommand genpsk" -l local -d 'The peer that this host is; by default the one whose address it has' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand genpsk" -l netns -d 'Work in this network namespace, as `ip netns` names it' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand genpsk" -l format -d 'How to print' -r -f -a "text\t'For people'
json\t'For programs'
prometheus\t'For Prometheus, by node_exporter\'s textfile collector; status only'"
complete -c meshsec -n "__fish_meshsec_using_subcommand genpsk" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c meshsec -n "__fish_meshsec_using_subcommand pubkey" -s c -l config -d 'The mesh\'s file, or - for standard input; by default /etc/meshsec/mesh.toml' -r -F
complete -c meshsec -n "__fish_meshsec_using_subcommand pubkey" -l local -d 'The peer that this host is; by default the one whose address it has' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand pubkey" -l netns -d 'Work in this network namespace, as `ip netns` names it' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand pubkey" -l format -d 'How to print' -r -f -a "text\t'For people'
json\t'For programs'
prometheus\t'For Prometheus, by node_exporter\'s textfile collector; status only'"
complete -c meshsec -n "__fish_meshsec_using_subcommand pubkey" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c meshsec -n "__fish_meshsec_using_subcommand rotate" -l seen -d 'Snapshots of hosts, as meshsec snapshot prints them' -r -F
complete -c meshsec -n "__fish_meshsec_using_subcommand rotate" -l for -d 'No packet may have come under another generation for this time; by default 1m' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand rotate" -l wait -d 'Look at the kernel again and again, until this time is up' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand rotate" -s c -l config -d 'The mesh\'s file, or - for standard input; by default /etc/meshsec/mesh.toml' -r -F
complete -c meshsec -n "__fish_meshsec_using_subcommand rotate" -l local -d 'The peer that this host is; by default the one whose address it has' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand rotate" -l netns -d 'Work in this network namespace, as `ip netns` names it' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand rotate" -l format -d 'How to print' -r -f -a "text\t'For people'
json\t'For programs'
prometheus\t'For Prometheus, by node_exporter\'s textfile collector; status only'"
complete -c meshsec -n "__fish_meshsec_using_subcommand rotate" -l here -d 'Look at this host\'s kernel; settled does so where no --seen is given'
complete -c meshsec -n "__fish_meshsec_using_subcommand rotate" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c meshsec -n "__fish_meshsec_using_subcommand settled" -l seen -d 'Snapshots of hosts, as meshsec snapshot prints them' -r -F
complete -c meshsec -n "__fish_meshsec_using_subcommand settled" -l for -d 'No packet may have come under another generation for this time; by default 1m' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand settled" -l wait -d 'Look at the kernel again and again, until this time is up' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand settled" -s c -l config -d 'The mesh\'s file, or - for standard input; by default /etc/meshsec/mesh.toml' -r -F
complete -c meshsec -n "__fish_meshsec_using_subcommand settled" -l local -d 'The peer that this host is; by default the one whose address it has' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand settled" -l netns -d 'Work in this network namespace, as `ip netns` names it' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand settled" -l format -d 'How to print' -r -f -a "text\t'For people'
json\t'For programs'
prometheus\t'For Prometheus, by node_exporter\'s textfile collector; status only'"
complete -c meshsec -n "__fish_meshsec_using_subcommand settled" -l here -d 'Look at this host\'s kernel; settled does so where no --seen is given'
complete -c meshsec -n "__fish_meshsec_using_subcommand settled" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c meshsec -n "__fish_meshsec_using_subcommand ratchet; and not __fish_seen_subcommand_from init advance help" -s c -l config -d 'The mesh\'s file, or - for standard input; by default /etc/meshsec/mesh.toml' -r -F
complete -c meshsec -n "__fish_meshsec_using_subcommand ratchet; and not __fish_seen_subcommand_from init advance help" -l local -d 'The peer that this host is; by default the one whose address it has' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand ratchet; and not __fish_seen_subcommand_from init advance help" -l netns -d 'Work in this network namespace, as `ip netns` names it' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand ratchet; and not __fish_seen_subcommand_from init advance help" -l format -d 'How to print' -r -f -a "text\t'For people'
json\t'For programs'
prometheus\t'For Prometheus, by node_exporter\'s textfile collector; status only'"
complete -c meshsec -n "__fish_meshsec_using_subcommand ratchet; and not __fish_seen_subcommand_from init advance help" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c meshsec -n "__fish_meshsec_using_subcommand ratchet; and not __fish_seen_subcommand_from init advance help" -f -a "init" -d 'Make the file from the mesh key on standard input'
complete -c meshsec -n "__fish_meshsec_using_subcommand ratchet; and not __fish_seen_subcommand_from init advance help" -f -a "advance" -d 'Destroy the keys of all generations before this one'
complete -c meshsec -n "__fish_meshsec_using_subcommand ratchet; and not __fish_seen_subcommand_from init advance help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c meshsec -n "__fish_meshsec_using_subcommand ratchet; and __fish_seen_subcommand_from init" -s c -l config -d 'The mesh\'s file, or - for standard input; by default /etc/meshsec/mesh.toml' -r -F
complete -c meshsec -n "__fish_meshsec_using_subcommand ratchet; and __fish_seen_subcommand_from init" -l local -d 'The peer that this host is; by default the one whose address it has' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand ratchet; and __fish_seen_subcommand_from init" -l netns -d 'Work in this network namespace, as `ip netns` names it' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand ratchet; and __fish_seen_subcommand_from init" -l format -d 'How to print' -r -f -a "text\t'For people'
json\t'For programs'
prometheus\t'For Prometheus, by node_exporter\'s textfile collector; status only'"
complete -c meshsec -n "__fish_meshsec_using_subcommand ratchet; and __fish_seen_subcommand_from init" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c meshsec -n "__fish_meshsec_using_subcommand ratchet; and __fish_seen_subcommand_from advance" -l to -d 'The oldest generation whose keys are kept' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand ratchet; and __fish_seen_subcommand_from advance" -s c -l config -d 'The mesh\'s file, or - for standard input; by default /etc/meshsec/mesh.toml' -r -F
complete -c meshsec -n "__fish_meshsec_using_subcommand ratchet; and __fish_seen_subcommand_from advance" -l local -d 'The peer that this host is; by default the one whose address it has' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand ratchet; and __fish_seen_subcommand_from advance" -l netns -d 'Work in this network namespace, as `ip netns` names it' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand ratchet; and __fish_seen_subcommand_from advance" -l format -d 'How to print' -r -f -a "text\t'For people'
json\t'For programs'
prometheus\t'For Prometheus, by node_exporter\'s textfile collector; status only'"
complete -c meshsec -n "__fish_meshsec_using_subcommand ratchet; and __fish_seen_subcommand_from advance" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c meshsec -n "__fish_meshsec_using_subcommand ratchet; and __fish_seen_subcommand_from help" -f -a "init" -d 'Make the file from the mesh key on standard input'
complete -c meshsec -n "__fish_meshsec_using_subcommand ratchet; and __fish_seen_subcommand_from help" -f -a "advance" -d 'Destroy the keys of all generations before this one'
complete -c meshsec -n "__fish_meshsec_using_subcommand ratchet; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c meshsec -n "__fish_meshsec_using_subcommand spi" -s c -l config -d 'The mesh\'s file, or - for standard input; by default /etc/meshsec/mesh.toml' -r -F
complete -c meshsec -n "__fish_meshsec_using_subcommand spi" -l local -d 'The peer that this host is; by default the one whose address it has' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand spi" -l netns -d 'Work in this network namespace, as `ip netns` names it' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand spi" -l format -d 'How to print' -r -f -a "text\t'For people'
json\t'For programs'
prometheus\t'For Prometheus, by node_exporter\'s textfile collector; status only'"
complete -c meshsec -n "__fish_meshsec_using_subcommand spi" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c meshsec -n "__fish_meshsec_using_subcommand encap-socket" -s c -l config -d 'The mesh\'s file, or - for standard input; by default /etc/meshsec/mesh.toml' -r -F
complete -c meshsec -n "__fish_meshsec_using_subcommand encap-socket" -l local -d 'The peer that this host is; by default the one whose address it has' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand encap-socket" -l netns -d 'Work in this network namespace, as `ip netns` names it' -r
complete -c meshsec -n "__fish_meshsec_using_subcommand encap-socket" -l format -d 'How to print' -r -f -a "text\t'For people'
json\t'For programs'
prometheus\t'For Prometheus, by node_exporter\'s textfile collector; status only'"
complete -c meshsec -n "__fish_meshsec_using_subcommand encap-socket" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c meshsec -n "__fish_meshsec_using_subcommand help; and not __fish_seen_subcommand_from validate plan apply destroy confirm show status snapshot mtu genkey genpsk pubkey rotate settled ratchet spi encap-socket help" -f -a "validate" -d 'Check the file and its secrets; needs no privilege'
complete -c meshsec -n "__fish_meshsec_using_subcommand help; and not __fish_seen_subcommand_from validate plan apply destroy confirm show status snapshot mtu genkey genpsk pubkey rotate settled ratchet spi encap-socket help" -f -a "plan" -d 'Show what apply would do'
complete -c meshsec -n "__fish_meshsec_using_subcommand help; and not __fish_seen_subcommand_from validate plan apply destroy confirm show status snapshot mtu genkey genpsk pubkey rotate settled ratchet spi encap-socket help" -f -a "apply" -d 'Show the plan, ask, do it and prove that it is done'
complete -c meshsec -n "__fish_meshsec_using_subcommand help; and not __fish_seen_subcommand_from validate plan apply destroy confirm show status snapshot mtu genkey genpsk pubkey rotate settled ratchet spi encap-socket help" -f -a "destroy" -d 'Remove everything of this mesh from this host; needs no secret'
complete -c meshsec -n "__fish_meshsec_using_subcommand help; and not __fish_seen_subcommand_from validate plan apply destroy confirm show status snapshot mtu genkey genpsk pubkey rotate settled ratchet spi encap-socket help" -f -a "confirm" -d 'Keep what an apply or destroy with --confirm-within has done'
complete -c meshsec -n "__fish_meshsec_using_subcommand help; and not __fish_seen_subcommand_from validate plan apply destroy confirm show status snapshot mtu genkey genpsk pubkey rotate settled ratchet spi encap-socket help" -f -a "show" -d 'Show live objects in the file\'s words'
complete -c meshsec -n "__fish_meshsec_using_subcommand help; and not __fish_seen_subcommand_from validate plan apply destroy confirm show status snapshot mtu genkey genpsk pubkey rotate settled ratchet spi encap-socket help" -f -a "status" -d 'Show whether each peer is protected; exit with 2 if somebody should look'
complete -c meshsec -n "__fish_meshsec_using_subcommand help; and not __fish_seen_subcommand_from validate plan apply destroy confirm show status snapshot mtu genkey genpsk pubkey rotate settled ratchet spi encap-socket help" -f -a "snapshot" -d 'Print the live state as JSON, without keys: input of plan --live FILE'
complete -c meshsec -n "__fish_meshsec_using_subcommand help; and not __fish_seen_subcommand_from validate plan apply destroy confirm show status snapshot mtu genkey genpsk pubkey rotate settled ratchet spi encap-socket help" -f -a "mtu" -d 'Show how large a packet may be, part by part; needs no privilege'
complete -c meshsec -n "__fish_meshsec_using_subcommand help; and not __fish_seen_subcommand_from validate plan apply destroy confirm show status snapshot mtu genkey genpsk pubkey rotate settled ratchet spi encap-socket help" -f -a "genkey" -d 'Print a new X25519 private key, as wg genkey does'
complete -c meshsec -n "__fish_meshsec_using_subcommand help; and not __fish_seen_subcommand_from validate plan apply destroy confirm show status snapshot mtu genkey genpsk pubkey rotate settled ratchet spi encap-socket help" -f -a "genpsk" -d 'Print a new 32-byte secret, as wg genpsk does'
complete -c meshsec -n "__fish_meshsec_using_subcommand help; and not __fish_seen_subcommand_from validate plan apply destroy confirm show status snapshot mtu genkey genpsk pubkey rotate settled ratchet spi encap-socket help" -f -a "pubkey" -d 'Print the public key of a private key on standard input, as wg pubkey does'
complete -c meshsec -n "__fish_meshsec_using_subcommand help; and not __fish_seen_subcommand_from validate plan apply destroy confirm show status snapshot mtu genkey genpsk pubkey rotate settled ratchet spi encap-socket help" -f -a "rotate" -d 'Raise generation in the file by one, and change nothing else in it'
complete -c meshsec -n "__fish_meshsec_using_subcommand help; and not __fish_seen_subcommand_from validate plan apply destroy confirm show status snapshot mtu genkey genpsk pubkey rotate settled ratchet spi encap-socket help" -f -a "settled" -d 'Tell whether all hosts have applied the generation; exit with 2 if they are not known to'
complete -c meshsec -n "__fish_meshsec_using_subcommand help; and not __fish_seen_subcommand_from validate plan apply destroy confirm show status snapshot mtu genkey genpsk pubkey rotate settled ratchet spi encap-socket help" -f -a "ratchet" -d 'Make the ratchet of the file, or turn it'
complete -c meshsec -n "__fish_meshsec_using_subcommand help; and not __fish_seen_subcommand_from validate plan apply destroy confirm show status snapshot mtu genkey genpsk pubkey rotate settled ratchet spi encap-socket help" -f -a "spi" -d 'Decode an SPI into generation, lane, from and to'
complete -c meshsec -n "__fish_meshsec_using_subcommand help; and not __fish_seen_subcommand_from validate plan apply destroy confirm show status snapshot mtu genkey genpsk pubkey rotate settled ratchet spi encap-socket help" -f -a "encap-socket" -d 'Make the sockets that systemd passes take ESP out of UDP; for meshsec-encap@.service'
complete -c meshsec -n "__fish_meshsec_using_subcommand help; and not __fish_seen_subcommand_from validate plan apply destroy confirm show status snapshot mtu genkey genpsk pubkey rotate settled ratchet spi encap-socket help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c meshsec -n "__fish_meshsec_using_subcommand help; and __fish_seen_subcommand_from ratchet" -f -a "init" -d 'Make the file from the mesh key on standard input'
complete -c meshsec -n "__fish_meshsec_using_subcommand help; and __fish_seen_subcommand_from ratchet" -f -a "advance" -d 'Destroy the keys of all generations before this one'

# A module of NixOS for meshsec. It has not been evaluated with nixpkgs yet, and no system has been
# built of it.
#
#   imports = [ ./meshsec.nix ];
#   services.meshsec = {
#     enable = true;
#     package = pkgs.callPackage ./package.nix { };   # see the end of this file
#     local = "a";
#     settings = {
#       mesh.name = "lab";
#       keys.mesh_key.credential = "mesh.key";
#       rotation.generation = 1;
#       peer = [
#         { name = "a"; short_id = 1; address = "192.0.2.1"; }
#         { name = "b"; short_id = 2; address = "192.0.2.2"; }
#       ];
#     };
#     credentials."mesh.key" = "/run/secrets/mesh.key";
#   };
#
# No secret may be in settings: the store is readable for all users, and meshsec refuses a file with
# a secret in it. A path of credentials is a string, because a Nix path would be copied to the store.
{ config, lib, pkgs, ... }:

let
  cfg = config.services.meshsec;
  file = (pkgs.formats.toml { }).generate "mesh.toml" cfg.settings;
in
{
  options.services.meshsec = {
    enable = lib.mkEnableOption "an encrypted mesh";

    package = lib.mkOption {
      type = lib.types.package;
      description = "The package with bin/meshsec.";
    };

    local = lib.mkOption {
      type = lib.types.str;
      default = config.networking.hostName;
      defaultText = lib.literalExpression "config.networking.hostName";
      description = "The name of this host in the mesh.";
    };

    settings = lib.mkOption {
      type = (pkgs.formats.toml { }).type;
      description = "The content of mesh.toml, the same on all hosts. See meshsec.toml(5).";
    };

    credentials = lib.mkOption {
      type = lib.types.attrsOf lib.types.str;
      default = { };
      description = "Files of secrets, by the names of credentials in settings.";
    };
  };

  config = lib.mkIf cfg.enable {
    # iptables too: meshsec looks for it in /run/current-system/sw/bin.
    environment.systemPackages = [ cfg.package pkgs.iptables ];
    environment.etc."meshsec/mesh.toml".source = file;

    # As examples/systemd/meshsec.service, which gives the reasons.
    systemd.services.meshsec = {
      description = "Protect the mesh's traffic with IPsec";
      wantedBy = [ "sysinit.target" ];
      wants = [ "network-pre.target" ];
      before = [ "network-pre.target" "shutdown.target" ];
      conflicts = [ "shutdown.target" ];
      after = [
        "local-fs.target"
        "systemd-sysctl.service"
        "systemd-modules-load.service"
        "systemd-timesyncd.service"
      ];
      unitConfig.DefaultDependencies = false;
      # A switch to a new configuration starts it again, and stops nothing.
      restartTriggers = [ file ];
      serviceConfig = {
        Type = "oneshot";
        ExecStart = "${cfg.package}/bin/meshsec --local ${cfg.local} -c ${file} apply --auto-approve";
        TimeoutStartSec = "5min";
        LoadCredential = lib.mapAttrsToList (name: path: "${name}:${path}") cfg.credentials;
        CapabilityBoundingSet = [ "CAP_NET_ADMIN" "CAP_NET_RAW" ];
        ReadWritePaths = [ "/run" ];
        NoNewPrivileges = true;
        UMask = "0077";
        LimitCORE = 0;
        RuntimeDirectory = "meshsec";
        RuntimeDirectoryMode = "0700";
        RuntimeDirectoryPreserve = true;
        ProtectSystem = "strict";
        ProtectHome = true;
        PrivateTmp = true;
        PrivateDevices = true;
        PrivateMounts = true;
        ProtectControlGroups = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        RestrictAddressFamilies = [ "AF_NETLINK" "AF_UNIX" "AF_INET" "AF_INET6" ];
        IPAddressDeny = "any";
        IPAddressAllow = "localhost";
        SystemCallFilter = [ "@system-service adjtimex" "~@resources" ];
        SystemCallErrorNumber = "EPERM";
        SystemCallArchitectures = "native";
      };
    };

    systemd.timers.meshsec = {
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnBootSec = "1min";
        OnCalendar = "*:0/15";
        AccuracySec = "10s";
      };
    };
  };
}

# package.nix, with the source of meshsec beside it:
#
#   { rustPlatform }:
#   rustPlatform.buildRustPackage {
#     pname = "meshsec";
#     version = "0.1.0";
#     src = ./meshsec;
#     cargoLock.lockFile = ./meshsec/Cargo.lock;
#     cargoBuildFlags = [ "--package" "meshsec" ];
#     doCheck = false;   # the tests need root, a kernel with ESP and other programs
#   }

//! iptables in both backends, and rules of others as kube-proxy and docker have them.

use std::{
    fmt::Write,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
    process::Command,
};

use crate::{fixture::Lab, fixture::Underlay, namespace::Namespace, shell, shell::Ran};

/// The chains of the lab's mesh; its reqid follows from the name.
pub const MARK: &str = "MESHSEC-4d53a511-MARK";
pub const OUT: &str = "MESHSEC-4d53a511-OUT";
pub const IN: &str = "MESHSEC-4d53a511-IN";

/// The lines of a mesh.toml that select by a mark.
pub const BY_MARK: &str = "kind = \"vxlan\"\nselect = \"mark\"";

/// The backend of the system's iptables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Nft,
    Legacy,
}

impl Backend {
    pub const BOTH: [Self; 2] = [Self::Nft, Self::Legacy];

    pub fn suffix(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        }
    }

    pub fn other(self) -> Self {
        match self {
            Self::Nft => Self::Legacy,
            Self::Legacy => Self::Nft,
        }
    }

    /// A lab selected by a mark, of hosts with an `iptables` that works on this backend.
    pub fn lab(self, underlay: &[Underlay]) -> Lab {
        let mut lab = Lab::over(underlay);
        lab.mesh.traffic = BY_MARK;
        lab.write_all(&lab.mesh);
        self.is_the_systems(&mut lab);
        lab
    }

    /// Makes it the backend of `iptables` and `ip6tables`, for meshsec alone.
    pub fn is_the_systems(self, lab: &mut Lab) {
        let directory = lab.directory().join(format!("system-{}", self.suffix()));
        if !directory.exists() {
            fs::create_dir(&directory).expect("a directory can be made");
            for program in ["iptables", "ip6tables"] {
                let real = format!("/usr/sbin/{program}-{}", self.suffix());
                symlink(real, directory.join(program)).expect("a link can be made");
            }
        }
        lab.hidden = vec![(directory, "/usr/local/sbin")];
    }

    /// `iptables` or `ip6tables` with these words, on a host.
    pub fn run(self, host: &Namespace, underlay: Underlay, words: &str) -> Ran {
        host.run(Command::new(self.program(underlay)).args(words.split_whitespace()))
    }

    /// The same, which succeeds.
    #[track_caller]
    pub fn tables(self, host: &Namespace, underlay: Underlay, words: &str) {
        self.run(host, underlay, words).exits(0);
    }

    fn program(self, underlay: Underlay) -> String {
        let program = match underlay {
            Underlay::V4 => "iptables",
            Underlay::V6 => "ip6tables",
        };
        format!("{program}-{}", self.suffix())
    }

    /// All rules of a host in this backend, both families, without counters and times.
    pub fn saved(self, host: &Namespace) -> String {
        let mut text = String::new();
        for underlay in [Underlay::V4, Underlay::V6] {
            let program = format!("{}-save", self.program(underlay));
            let saved = host.run(&mut Command::new(program)).exits(0).stdout;
            for line in saved.lines().filter(|line| !line.starts_with('#')) {
                let line = match line.rsplit_once(" [") {
                    Some((chain, _)) if line.starts_with(':') => chain,
                    _ => line,
                };
                let _ = writeln!(text, "{line}");
            }
        }
        text
    }

    /// `iptables-restore` with this input, on a host.
    #[track_caller]
    pub fn restore(self, host: &Namespace, underlay: Underlay, text: &str) {
        let mut command = Command::new(format!("{}-restore", self.program(underlay)));
        command.arg("--noflush");
        host.inside(|| shell::run_with(&mut command, text)).exits(0);
    }
}

/// A program in place of iptables-restore that fails where its input has `word`.
pub fn failing_restore(lab: &mut Lab, backend: Backend, word: &str, said: &str, status: i32) {
    let directory = lab.directory().join("failing");
    fs::create_dir_all(&directory).expect("a directory can be made");
    for program in ["iptables", "ip6tables"] {
        let real = format!("/usr/sbin/{program}-{}", backend.suffix());
        let _ = symlink(&real, directory.join(program));
        let path = directory.join(format!("{program}-{}-restore", backend.suffix()));
        let script = format!(
            "#!/bin/sh\ninput=$(cat)\ncase $input in *'{word}'*) echo '{said}' >&2; exit {status};; \
             esac\nprintf '%s\\n' \"$input\" | exec {real}-restore \"$@\"\n"
        );
        fs::write(&path, script).expect("a script can be written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it may be run");
    }
    lab.hidden = vec![(directory, "/usr/local/sbin")];
}

/// The programs of iptables, each of which adds a line to the file that is returned.
pub fn recorded(lab: &mut Lab, backend: Backend) -> PathBuf {
    let record = lab.directory().join("programs-that-ran");
    let directory = lab.directory().join("recorded");
    fs::create_dir_all(&directory).expect("a directory can be made");
    for program in ["iptables", "ip6tables"] {
        let system = format!("{program}-{}", backend.suffix());
        for rest in ["", "-nft-save", "-nft-restore", "-legacy-save", "-legacy-restore"] {
            let name = format!("{program}{rest}");
            let real = if rest.is_empty() { &system } else { &name };
            let script = format!(
                "#!/bin/sh\necho '{name}' >>{}\nexec /usr/sbin/{real} \"$@\"\n",
                record.display()
            );
            let path = directory.join(&name);
            fs::write(&path, script).expect("a script can be written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it may be run");
        }
    }
    lab.hidden = vec![(directory, "/usr/local/sbin")];
    record
}

/// Rules of the kind that kube-proxy and docker have, about `count` of them.
pub fn rules_of_others(count: usize) -> String {
    let mut filter = String::from(
        "*filter\n:KUBE-FIREWALL - [0:0]\n:KUBE-SERVICES - [0:0]\n:DOCKER - [0:0]\n\
         :DOCKER-USER - [0:0]\n\
         -A INPUT -j KUBE-FIREWALL\n-A OUTPUT -j KUBE-FIREWALL\n\
         -A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" \
         -j KUBE-SERVICES\n\
         -A FORWARD -j DOCKER-USER\n-A FORWARD -o docker0 -j DOCKER\n\
         -A DOCKER-USER -j RETURN\n\
         -A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT\n\
         -A KUBE-FIREWALL -m comment --comment \"drops \\\"marked\\\" packets, -j ACCEPT\" \
         -m mark --mark 0x8000/0x8000 -j DROP\n",
    );
    let mut nat = String::from(
        "*nat\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-SERVICES - [0:0]\n\
         :DOCKER - [0:0]\n\
         -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A POSTROUTING -j KUBE-POSTROUTING\n\
         -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\n\
         -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
         -A DOCKER -i docker0 -j RETURN\n",
    );
    let mut chains = String::new();
    for service in 0..count / 5 {
        let (a, b) = (service / 250, service % 250 + 1);
        let name = format!("{service:012X}");
        let _ = write!(chains, ":KUBE-SVC-{name} - [0:0]\n:KUBE-SEP-{name} - [0:0]\n");
        let _ = write!(
            nat,
            "-A KUBE-SERVICES -d 10.96.{a}.{b}/32 -p tcp -m comment --comment \"default/web{service}:http \
             cluster IP\" -m tcp --dport 80 -j KUBE-SVC-{name}\n\
             -A KUBE-SVC-{name} ! -s 10.244.0.0/16 -d 10.96.{a}.{b}/32 -p tcp -m tcp --dport 80 \
             -j KUBE-MARK-MASQ\n\
             -A KUBE-SVC-{name} -m statistic --mode random --probability 0.50000000000 \
             -j KUBE-SEP-{name}\n\
             -A KUBE-SEP-{name} -s 10.244.{a}.{b}/32 -j KUBE-MARK-MASQ\n\
             -A KUBE-SEP-{name} -p tcp -m tcp -j DNAT --to-destination 10.244.{a}.{b}:8080\n",
        );
    }
    filter.push_str("COMMIT\n");
    let (head, rules) = nat.split_once("-A ").expect("it has rules");
    format!("{filter}{head}{chains}-A {rules}COMMIT\n")
}

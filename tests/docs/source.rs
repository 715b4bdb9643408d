//! Rules of the source: how long files are, which modules may use which, and where effects are.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::{files, read, root};

/// A file that is longer has more than one subject.
const LONGEST_FILE: usize = 600;

#[test]
fn no_file_is_too_long() {
    for directory in ["src", "xtask", "tests"] {
        for path in files(directory, &["rs", "sh", "py"]) {
            let lines = fs::read_to_string(root().join(&path)).unwrap().lines().count();
            assert!(lines <= LONGEST_FILE, "{} has {lines} lines", path.display());
        }
    }
}

/// Scripts, `xargs` and Make take a space in a name for the end of it.
#[test]
fn no_file_name_has_a_space() {
    let mut left = vec![root().to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            assert!(!name.contains(char::is_whitespace), "{}", path.display());
            if path.is_dir() && !path.is_symlink() && !["target", ".git"].contains(&&*name) {
                left.push(path);
            }
        }
    }
}

/// Modules without effects: the stages between reading the file and asking the kernel.
const PURE: [&str; 12] = [
    "agreement",
    "compare",
    "config",
    "desired",
    "diagnosis",
    "keys",
    "model",
    "mtu",
    "plan",
    "render",
    "restore",
    "verdict",
];

/// The files of these modules, and others without effects.
fn pure_files() -> Vec<PathBuf> {
    let sources = files("src", &["rs"]);
    let of_module = |module: &&str| {
        let module = Path::new("src").join(module);
        let of_it = |path: &&PathBuf| path.with_extension("").starts_with(&module);
        let found: Vec<PathBuf> = sources.iter().filter(of_it).cloned().collect();
        assert!(!found.is_empty(), "{}", module.display());
        found
    };
    let mut pure: Vec<PathBuf> = PURE.iter().flat_map(of_module).collect();
    let iptables = ["drops", "facts", "follow", "nat", "parse", "text"];
    pure.extend(iptables.map(|name| format!("src/kernel/linux/iptables/{name}.rs").into()));
    pure.retain(|path| path != Path::new("src/config/files.rs"));
    pure
}

/// A file's code, without comments and without its tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(root().join(path)).unwrap();
    let code = text.split("\n#[cfg(test)]\n").next().unwrap();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn pure_modules_forbid_unsafe_code() {
    let forbids = |path: &Path| code(path).contains("#![forbid(unsafe_code)]");
    for path in pure_files() {
        // Lints that a module forbids are forbidden in the modules below it.
        let parent = path.with_file_name("mod.rs");
        let is_root = parent.parent() == Some(Path::new("src"));
        let inherits = !is_root && root().join(&parent).exists() && forbids(&parent);
        assert!(forbids(&path) || inherits, "{}", path.display());
    }
}

#[test]
fn pure_modules_use_nothing_with_effects() {
    const EFFECTS: [&str; 17] = [
        "std::fs",
        "std::env",
        "std::process",
        "std::thread",
        "std::net::TcpListener",
        "std::net::TcpStream",
        "std::net::UdpSocket",
        "std::net::ToSocketAddrs",
        "std::os::fd",
        "std::os::unix::net",
        "std::time::SystemTime",
        "rustix",
        "netlink_packet_core",
        "netlink_packet_xfrm",
        "netlink_sys",
        "rtnetlink",
        "tokio",
    ];
    for path in pure_files() {
        let code = code(&path);
        let mut used: Vec<String> = uses(&code).iter().flat_map(|tree| expand(tree)).collect();
        used.extend(inline_paths(&code));
        for name in used {
            let effect = EFFECTS
                .iter()
                .find(|effect| name == **effect || name.starts_with(&format!("{effect}::")));
            // Names of variables come from the file; their values are parameters from here on.
            // Threads that compute and end within one function are no effect.
            let allowed = [
                ("src/config/mod.rs", "std::env::var_os"),
                ("src/desired/sessions.rs", "std::thread"),
                ("src/desired/sessions.rs", "std::thread::available_parallelism"),
                ("src/desired/sessions.rs", "std::thread::scope"),
            ];
            let allowed = allowed.contains(&(path.to_str().unwrap(), &name));
            assert!(effect.is_none() || allowed, "{} uses {name}", path.display());
        }
    }
}

/// The modules of src, each with those that it may use. Data flows one way: an arrow that is not
/// here would make a circle, or give a pure module an effect.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("mtu", &[]),
    ("keys", &["model"]),
    ("config", &["model", "keys", "mtu"]),
    ("desired", &["model", "keys", "mtu", "config"]),
    ("agreement", &["model", "config", "desired"]),
    ("plan", &["model", "mtu", "desired"]),
    ("compare", &["model", "config", "plan"]),
    ("kernel", &["model", "mtu", "config", "fuzzing"]),
    ("restore", &["model", "desired", "plan"]),
    ("apply", &["model", "desired", "plan", "kernel"]),
    ("revert", &["model", "desired", "plan", "kernel", "apply", "restore"]),
    ("verdict", &["model", "config", "desired", "plan"]),
    ("diagnosis", &["model", "mtu", "config", "plan", "verdict"]),
    (
        "render",
        &[
            "agreement",
            "compare",
            "model",
            "mtu",
            "config",
            "plan",
            "kernel",
            "apply",
            "verdict",
            "diagnosis",
        ],
    ),
    ("error", &["model", "config", "kernel", "render"]),
    ("cli", &[]),
    ("privilege", &["cli", "config"]),
    ("completion", &["cli", "config", "kernel", "privilege"]),
    (
        "commands",
        &[
            "model",
            "mtu",
            "keys",
            "config",
            "desired",
            "plan",
            "kernel",
            "restore",
            "apply",
            "revert",
            "verdict",
            "diagnosis",
            "render",
            "error",
            "cli",
            "privilege",
            "completion",
            "fuzzing",
            "agreement",
            "compare",
        ],
    ),
    ("fuzzing", &["model", "config", "desired", "plan", "kernel", "apply", "render", "commands"]),
];

/// The modules of the crate's root, `main.rs` and `lib.rs` aside, each with those that it uses.
fn used_modules() -> BTreeSet<(String, String)> {
    let mut used = BTreeSet::new();
    for path in files("src", &["rs"]) {
        let below = path.strip_prefix("src").unwrap().with_extension("");
        let module = below.iter().next().unwrap().to_string_lossy().into_owned();
        if module == "main" || module == "lib" {
            continue;
        }
        let code = code(&path);
        let mut names: Vec<String> = uses(&code).iter().flat_map(|tree| expand(tree)).collect();
        names.extend(inline_paths(&code));
        let roots = names.iter().filter_map(|name| name.strip_prefix("crate::"));
        let roots = roots.map(|name| name.split("::").next().unwrap_or(name).to_owned());
        used.extend(roots.filter(|root| *root != module).map(|root| (module.clone(), root)));
    }
    used
}

#[test]
fn modules_use_only_modules_below_them() {
    let allowed: BTreeSet<(String, String)> = ARROWS
        .iter()
        .flat_map(|(module, below)| below.iter().map(|low| (module.to_string(), low.to_string())))
        .collect();
    let used = used_modules();
    let more: Vec<_> = used.difference(&allowed).collect();
    assert!(more.is_empty(), "these arrows are not in the list: {more:?}");
    let fewer: Vec<_> = allowed.difference(&used).collect();
    assert!(fewer.is_empty(), "these arrows are in the list, and no module uses them: {fewer:?}");
}

#[test]
fn modules_form_no_circle() {
    // Modules that fuzz targets replay are tested from above, and compiled for tests only.
    let order: Vec<&str> = ARROWS.iter().map(|(module, _)| *module).collect();
    for (at, (module, below)) in ARROWS.iter().enumerate() {
        for low in below.iter().filter(|low| **low != "fuzzing") {
            assert!(
                order[..at].contains(low),
                "{module} uses {low}, which is not above it in the list"
            );
        }
    }
}

/// The trees of a file's `use` declarations.
fn uses(code: &str) -> Vec<String> {
    let flat = code.split_whitespace().collect::<Vec<_>>().join(" ");
    flat.split("use ")
        .skip(1)
        .filter_map(|rest| rest.split_once(';'))
        .map(|(tree, _)| tree.replace(' ', ""))
        .collect()
}

/// `a::{b,c::{d,e}}` as `a::b`, `a::c::d` and `a::c::e`.
fn expand(tree: &str) -> Vec<String> {
    let Some((head, rest)) = tree.split_once('{') else { return vec![tree.to_owned()] };
    let inner = &rest[..rest.rfind('}').unwrap_or(rest.len())];
    let mut branches = vec![String::new()];
    let mut depth = 0;
    for character in inner.chars() {
        match character {
            ',' if depth == 0 => {
                branches.push(String::new());
                continue;
            }
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        branches.last_mut().unwrap().push(character);
    }
    branches
        .iter()
        .filter(|branch| !branch.is_empty())
        .flat_map(|branch| expand(branch))
        .map(|branch| format!("{head}{branch}"))
        .collect()
}

/// Whole paths that are written out in code, such as `std::env::var_os`.
fn inline_paths(code: &str) -> Vec<String> {
    code.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
        .filter(|word| word.contains("::"))
        .map(|word| word.trim_matches(':').to_owned())
        .collect()
}

#[test]
fn use_trees_are_expanded() {
    let tree = &uses("use std::{\n    fs,\n    net::{IpAddr, TcpStream},\n};")[0];
    assert_eq!(expand(tree), ["std::fs", "std::net::IpAddr", "std::net::TcpStream"]);
}

/// The labels of every hash and derivation. A new one needs a line here, and in meshsec.toml(5).
const LABELS: [&str; 9] = [
    "meshsec/v1 esp",
    "meshsec/v1 fingerprint",
    "meshsec/v1 passage",
    "meshsec/v1 psk",
    "meshsec/v1 ratchet file",
    "meshsec/v1 ratchet init",
    "meshsec/v1 ratchet pair",
    "meshsec/v1 ratchet step",
    "meshsec/v1 x25519",
];

/// A name of a mesh, which is hashed without a label, has no slash and no space.
#[test]
fn no_label_of_a_hash_begins_another() {
    let mut found = BTreeSet::new();
    for path in files("src", &["rs"]) {
        let code = code(&path);
        let literals = code.split("\"meshsec/").skip(1);
        found.extend(literals.map(|rest| format!("meshsec/{}", rest.split('"').next().unwrap())));
    }
    assert!(found.iter().eq(LABELS), "{found:?}");
    let page = read("man/meshsec.toml.5");
    for (label, other) in LABELS.iter().flat_map(|a| LABELS.iter().map(move |b| (a, b))) {
        assert!(label == other || !label.starts_with(other), "{other} begins {label}");
        assert!(page.contains(label), "meshsec.toml(5) lacks {label}");
    }
}

//! Reasons why the kernel has not loaded a module that it may well have: `modprobe.d` bars it,
//! module loading is disabled, or FIPS forbids a cipher.
//!
//! Only certain reasons are given. For [`super::explain`], and for the warning of a plan before
//! anything is tried.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use crate::{
    config::printable,
    model::{Algorithm, Sa},
};

/// The directories of modprobe's configuration. Of files with one name, the first counts
/// (modprobe.d(5)).
const DIRECTORIES: [&str; 5] = [
    "etc/modprobe.d",
    "run/modprobe.d",
    "usr/local/lib/modprobe.d",
    "usr/lib/modprobe.d",
    "lib/modprobe.d",
];

/// The module that an SA needs, and the alias by which the kernel asks for it.
const ESP4: Module = Module { name: "esp4", alias: "xfrm-type-2-50" };
const ESP6: Module = Module { name: "esp6", alias: "xfrm-type-10-50" };
const GCM: Module = Module { name: "gcm", alias: "crypto-gcm" };
const SEQIV: Module = Module { name: "seqiv", alias: "crypto-seqiv" };
const CHACHA: Module = Module { name: "chacha20poly1305", alias: "crypto-rfc7539esp" };

/// A module of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Module {
    name: &'static str,
    alias: &'static str,
}

/// The module of ESP for an SA's family.
pub(super) fn esp(sa: &Sa) -> Module {
    if sa.id.dst.is_ipv4() { ESP4 } else { ESP6 }
}

/// The modules of an SA's cipher.
pub(super) fn of_cipher(algorithm: &Algorithm) -> Vec<Module> {
    match algorithm {
        Algorithm::Aead { name, .. } if name.contains("gcm") => vec![GCM, SEQIV],
        Algorithm::Aead { name, .. } if name.contains("chacha20") => vec![CHACHA, SEQIV],
        Algorithm::Aead { .. } | Algorithm::Other(_) | Algorithm::Larval => Vec::new(),
    }
}

/// The reason that bars the first of these modules that is not loaded. For modules that the kernel
/// has just been found to lack.
pub(super) fn barred(modules: &[Module]) -> Option<String> {
    let root = Path::new("/");
    let missing: Vec<_> = modules.iter().filter(|module| !is_loaded(root, module)).collect();
    bar(root, &missing)
}

/// The reasons why the kernel won't create these SAs, before anything is tried.
///
/// Other modules can stand in for that of a cipher, but not for that of ESP.
pub fn foreseen<'a>(sas: impl Iterator<Item = &'a Sa>) -> Vec<String> {
    let needs = sas.map(|sa| (esp(sa), &sa.algorithm));
    foreseen_under(Path::new("/"), needs)
}

fn foreseen_under<'a>(
    root: &Path,
    needs: impl Iterator<Item = (Module, &'a Algorithm)>,
) -> Vec<String> {
    let (mut looked, mut said) = (BTreeSet::new(), BTreeSet::new());
    for (esp, algorithm) in needs {
        if looked.insert(esp.name) && is_missing(root, &esp) {
            said.extend(bar(root, &[&esp]));
        }
        said.extend(forbidden_under(root, algorithm).map(String::from));
    }
    said.into_iter().collect()
}

fn bar(root: &Path, missing: &[&Module]) -> Option<String> {
    let first = missing.first()?.name;
    if is_one(&root.join("proc/sys/kernel/modules_disabled")) {
        return Some(format!(
            "kernel.modules_disabled = 1, so module {first} can't be loaded before the next boot: \
             name it in /etc/modules-load.d"
        ));
    }
    let lines = configuration(root);
    missing.iter().find_map(|module| lines.iter().find_map(|line| line.bars(module)))
}

/// The explanation for a cipher that the kernel lacks, if FIPS forbids it.
pub(super) fn forbidden_cipher(algorithm: &Algorithm) -> Option<&'static str> {
    forbidden_under(Path::new("/"), algorithm)
}

fn forbidden_under(root: &Path, algorithm: &Algorithm) -> Option<&'static str> {
    let chacha = matches!(algorithm, Algorithm::Aead { name, .. } if name.contains("chacha20"));
    (chacha && is_one(&root.join("proc/sys/crypto/fips_enabled"))).then_some(
        "this kernel runs in FIPS mode, which forbids ChaCha20-Poly1305: \
         write cipher = \"aes256-gcm\"",
    )
}

fn is_one(path: &Path) -> bool {
    fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}

fn is_loaded(root: &Path, module: &Module) -> bool {
    root.join("sys/module").join(module.name).exists()
}

/// Whether a module is certainly neither loaded nor a part of the kernel. `false` where nobody can
/// tell, as in a container without `/lib/modules`.
fn is_missing(root: &Path, module: &Module) -> bool {
    let built_in = || {
        let release = fs::read_to_string(root.join("proc/sys/kernel/osrelease")).ok()?;
        let directory = root.join("lib/modules").join(release.trim());
        let list = fs::read_to_string(directory.join("modules.builtin")).ok()?;
        let file = format!("/{}.ko", module.name);
        Some(list.lines().any(|line| line.ends_with(&file)))
    };
    root.join("sys/module").exists() && !is_loaded(root, module) && built_in() == Some(false)
}

/// A line of modprobe's configuration.
struct Line {
    file: PathBuf,
    words: Vec<String>,
}

impl Line {
    /// The effect of this line on a module, if the line bars it.
    ///
    /// The kernel asks by an alias, and `blacklist` hides a module's aliases.
    fn bars(&self, module: &Module) -> Option<String> {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let is = |name: &str, of: &str| name.replace('-', "_") == of.replace('-', "_");
        let named = |name: &str| is(name, module.name) || is(name, module.alias);
        let bars = match words[..] {
            ["install", name, command, ..] => named(name) && is_nothing(command),
            ["blacklist", name] => is(name, module.name),
            ["alias", name, "off"] => is(name, module.alias),
            _ => false,
        };
        let file: String = self.file.to_string_lossy().chars().map(printable).collect();
        bars.then(|| {
            format!(
                "/{file} keeps module {} from being loaded ({} {}): find out what for, remove \
                 the line, and type modprobe {}",
                module.name, words[0], words[1], module.name
            )
        })
    }
}

/// Whether a command in place of loading loads nothing.
fn is_nothing(command: &str) -> bool {
    let program = command.rsplit('/').next().unwrap_or(command);
    matches!(program, "false" | "true" | ":" | "null" | "nologin")
}

/// All lines of modprobe's configuration. Files that can't be read count as empty.
fn configuration(root: &Path) -> Vec<Line> {
    let mut files = BTreeMap::new();
    for directory in DIRECTORIES {
        for entry in fs::read_dir(root.join(directory)).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if Path::new(&name).extension().is_some_and(|extension| extension == "conf") {
                files.entry(name.clone()).or_insert_with(|| Path::new(directory).join(name));
            }
        }
    }
    let lines = |file: &PathBuf| {
        let text = fs::read(root.join(file)).unwrap_or_default();
        String::from_utf8_lossy(&text).replace("\\\n", " ")
    };
    files
        .into_values()
        .flat_map(|file| {
            let text = lines(&file);
            let words = |line: &str| line.split_whitespace().map(String::from).collect::<Vec<_>>();
            text.lines()
                .map(words)
                .map(|words| Line { file: file.clone(), words })
                .collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Cipher;

    /// A root where esp4 is a module that is not loaded, with these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let builtin = "lib/modules/6.12.1-test/modules.builtin";
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/sys/kernel/osrelease", "6.12.1-test\n");
        write(builtin, "kernel/net/ipv6/esp6.ko\n");
        write("sys/module/xfrm_user/refcnt", "0\n");
        files.iter().for_each(|(path, text)| write(path, text));
        root
    }

    fn bars(files: &[(&str, &str)]) -> Option<String> {
        bar(root(files).path(), &[&ESP4, &GCM])
    }

    #[test]
    fn a_line_of_modprobe_keeps_a_module_away() {
        let said = |line: &str| bars(&[("etc/modprobe.d/dirtyfrag.conf", line)]);
        assert_eq!(
            said("# ours\ninstall esp4 /bin/false\n").unwrap(),
            "/etc/modprobe.d/dirtyfrag.conf keeps module esp4 from being loaded (install esp4): \
             find out what for, remove the line, and type modprobe esp4"
        );
        for line in [
            "install esp4 /bin/true",
            "install esp4 \\\n /usr/bin/false",
            "blacklist esp4",
            "\tblacklist  esp4",
            "install xfrm_type_2_50 /bin/true",
            "alias xfrm-type-2-50 off",
            "blacklist gcm",
        ] {
            assert!(said(line).is_some(), "{line}");
        }
        for line in [
            "",
            "install esp6 /bin/false",
            "# install esp4 /bin/false",
            "options esp4 x=1",
            "install esp4 /sbin/modprobe --ignore-install esp4",
            "blacklist seqiv",
            "blacklist esp44",
        ] {
            assert_eq!(said(line), None, "{line}");
        }
    }

    #[test]
    fn what_is_loaded_or_built_in_is_not_kept_away() {
        let line = ("usr/lib/modprobe.d/a.conf", "install esp4 /bin/false\nblacklist esp6");
        let (gcm, chacha) = (Cipher::Aes256Gcm.algorithm(), Cipher::ChaCha20Poly1305.algorithm());
        let foreseen = |files: &[(&str, &str)], need: (Module, &Algorithm)| {
            foreseen_under(root(files).path(), [need, need].into_iter()).len()
        };
        let (v4, v6) = ((ESP4, &gcm), (ESP6, &gcm));
        assert_eq!(foreseen(&[line], v4), 1);
        assert_eq!(foreseen(&[line], v6), 0, "it is built in");
        assert_eq!(foreseen(&[line, ("sys/module/esp4/refcnt", "1")], v4), 0);
        // The administrator's file hides another of the same name.
        assert_eq!(foreseen(&[line, ("etc/modprobe.d/a.conf", "")], v4), 0);
        assert_eq!(foreseen(&[("etc/modprobe.d/a.txt", line.1)], v4), 0);
        let unknown = tempfile::tempdir().unwrap();
        assert_eq!(foreseen_under(unknown.path(), [v4].into_iter()), [""; 0]);
        let fips = ("proc/sys/crypto/fips_enabled", "1");
        assert_eq!(foreseen(&[fips], (ESP6, &chacha)), 1);
    }

    #[test]
    fn a_kernel_that_loads_nothing_more_is_told() {
        let said = bars(&[("proc/sys/kernel/modules_disabled", "1\n")]).unwrap();
        assert!(said.starts_with("kernel.modules_disabled = 1, so module esp4 can't"), "{said}");
        assert_eq!(bars(&[("proc/sys/kernel/modules_disabled", "0\n")]), None);
    }

    #[test]
    fn fips_forbids_one_cipher() {
        let name = |name: &str| Algorithm::Aead { name: name.into(), key_bits: 288, icv_bits: 128 };
        let fips = root(&[("proc/sys/crypto/fips_enabled", "1\n")]);
        let forbidden =
            |root: &tempfile::TempDir, cipher| forbidden_under(root.path(), &name(cipher));
        assert!(forbidden(&fips, "rfc7539esp(chacha20,poly1305)").is_some());
        assert_eq!(forbidden(&fips, "rfc4106(gcm(aes))"), None);
        assert_eq!(forbidden(&root(&[]), "rfc7539esp(chacha20,poly1305)"), None);
    }
}

//! `[mesh] include`: where files are looked for, which are refused, and what a saved plan holds of
//! them. Golden cases of their contents are in tests/config.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use meshsec::config::{SecretsMode, load};
use sha2::{Digest, Sha256};

use crate::common::namespace::{inside, ip};

const SECRET: &str = "5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f\n";

/// A directory with a mesh.toml, its secret, and files of peers.
struct Host(tempfile::TempDir);

impl Host {
    fn new(include: &str) -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        host.write("mesh.key", SECRET, 0o600);
        host.write_mesh(include);
        host
    }

    fn write_mesh(&self, include: &str) {
        let mesh = format!(
            "[mesh]\nname = \"lab\"\ninclude = {include}\n[keys]\n\
             mesh_key = {{ file = \"mesh.key\" }}\n[rotation]\ngeneration = 1\n[[peer]]\n\
             name = \"a\"\nshort_id = 1\naddress = \"192.0.2.1\"\n"
        );
        self.write("mesh.toml", &mesh, 0o644);
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        fs::write(self.at(name), text).unwrap();
        self.chmod(name, mode);
    }

    fn chmod(&self, name: &str, mode: u32) {
        fs::set_permissions(self.at(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A file of one peer, in TOML or in JSON.
    fn write_peer(&self, file: &str, name: &str, id: u16) {
        let text = if file.ends_with(".json") {
            format!(
                "{{ \"peer\": [ {{ \"name\": \"{name}\", \"short_id\": {id}, \
                 \"address\": \"192.0.2.{id}\" }} ] }}\n"
            )
        } else {
            format!("[[peer]]\nname = \"{name}\"\nshort_id = {id}\naddress = \"192.0.2.{id}\"\n")
        };
        self.write(file, &text, 0o644);
    }

    /// Names of the peers, or the errors without the directory.
    fn load(&self, mesh: &Path, mode: SecretsMode) -> Result<Vec<String>, String> {
        let loaded = load(mesh, mode).map_err(|error| {
            error.to_string().replace(&format!("{}/", self.0.path().display()), "")
        })?;
        Ok(loaded.config.peers.iter().map(|peer| peer.name.to_string()).collect())
    }

    fn peers(&self) -> Result<Vec<String>, String> {
        self.load(&self.at("mesh.toml"), SecretsMode::Required)
    }

    fn meshsec(&self, words: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
        command.current_dir(self.0.path()).args(["-c", "mesh.toml"]).args(words);
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    }
}

#[test]
fn paths_begin_at_the_directory_of_the_file_that_a_link_leads_to() {
    let host = Host::new("[\"peers.d/*.toml\", \"../b.json\"]");
    for (file, name, id) in [("real/peers.d/c.toml", "c", 3), ("b.json", "b", 2)] {
        host.write_peer(file, name, id);
    }
    fs::rename(host.at("mesh.toml"), host.at("real/mesh.toml")).unwrap();
    // Secrets begin at the directory of the link.
    symlink("real/mesh.toml", host.at("mesh.toml")).unwrap();
    assert_eq!(host.peers().unwrap(), ["a", "b", "c"]);
    // A link of a directory is no link of the file.
    symlink("real", host.at("linked")).unwrap();
    let through = host.load(&host.at("linked/mesh.toml"), SecretsMode::Ignored);
    assert_eq!(through.unwrap(), ["a", "b", "c"]);
    let absolute = format!("[\"{}\"]", host.at("b.json").display());
    fs::remove_file(host.at("mesh.toml")).unwrap();
    host.write_mesh(&absolute);
    assert_eq!(host.peers().unwrap(), ["a", "b"]);
}

#[test]
fn a_file_that_others_can_write_or_replace_is_refused() {
    let host = Host::new("[\"d/*.json\"]");
    host.write_peer("d/b.json", "b", 2);
    for mode in [0o644, 0o600, 0o444] {
        host.chmod("d/b.json", mode);
        assert!(host.peers().is_ok(), "{mode:o}");
    }
    for mode in [0o664, 0o646, 0o602] {
        host.chmod("d/b.json", mode);
        let error = host.peers().unwrap_err();
        let refused = format!(
            "error: cannot read d/b.json: group or others can write it (mode {mode:04o})\n  \
             --> mesh.toml:3:12\n"
        );
        assert!(error.starts_with(&refused), "{error}");
        assert!(error.contains("^ type: chmod go-w d/b.json\n"), "{error}");
        // Where no kernel is changed, anybody's plan may be looked at.
        assert!(host.load(&host.at("mesh.toml"), SecretsMode::Optional).is_ok());
    }
    host.chmod("d/b.json", 0o644);
    // 1000 is the sticky bit: only owners rename and remove there.
    for (mode, good) in
        [(0o755, true), (0o775, false), (0o1777, true), (0o777, false), (0o757, false)]
    {
        host.chmod("d", mode);
        let loaded = host.peers();
        assert_eq!(loaded.is_ok(), good, "{mode:o}: {loaded:?}");
        let why = format!("others can replace it: they can write its directory (mode {mode:04o})");
        assert!(loaded.is_ok_and(|_| good) || host.peers().unwrap_err().contains(&why));
    }
    // The directory of the file itself counts too.
    host.chmod("d", 0o777);
    host.write_mesh("[\"e/b.json\"]");
    fs::create_dir(host.at("e")).unwrap();
    symlink("../d/b.json", host.at("e/b.json")).unwrap();
    assert!(host.peers().unwrap_err().contains("others can replace it"));
    host.chmod("d", 0o755);
    assert_eq!(host.peers().unwrap(), ["a", "b"]);
}

#[test]
fn a_file_of_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return; // Only root can give a file away.
    }
    let host = Host::new("[\"b.json\"]");
    host.write_peer("b.json", "b", 2);
    std::os::unix::fs::chown(host.at("b.json"), Some(65534), None).unwrap();
    let error = host.peers().unwrap_err();
    assert!(error.contains("cannot read b.json: it belongs to user 65534"), "{error}");
    assert!(error.contains("type: chown root "), "{error}");
}

#[test]
fn files_have_the_limits_of_mesh_toml_together() {
    let host = Host::new("[\"*.json\"]");
    host.write_peer("b.json", "b", 2);
    host.write_peer("c.json", "c", 3);
    let pad = |name: &str, size: usize| {
        let padded = fs::read_to_string(host.at(name)).unwrap() + &" ".repeat(size);
        host.write(name, &padded, 0o644);
    };
    pad("b.json", 3 << 20);
    assert!(host.peers().is_ok());
    pad("c.json", 2 << 20);
    let together = "cannot read c.json: with mesh.toml and the files before it, it is larger than \
                    4096 KiB";
    for include in ["[\"*.json\"]", "[\"b.json\", \"c.json\"]"] {
        host.write_mesh(include);
        let error = host.peers().unwrap_err();
        assert!(error.contains(together), "{include}: {error}");
    }
    host.write_mesh("[\"*.json\"]");
    // More than there can be peers.
    for i in 0..4096 {
        host.write(&format!("d{i}.json"), "", 0o644);
    }
    let error = host.peers().unwrap_err();
    assert!(error.contains("more than 4096 files have such a name"), "{error}");
}

/// Neither a FIFO nor a device can hang a run.
#[test]
fn only_regular_files_are_included() {
    let host = Host::new("[\"p.json\", \"z.json\", \"denied/*.json\", \"mesh.toml/*.json\"]");
    assert!(Command::new("mkfifo").arg(host.at("p.json")).status().unwrap().success());
    symlink("/dev/zero", host.at("z.json")).unwrap();
    let error = host.peers().unwrap_err();
    assert_eq!(error.matches("it is not a regular file").count(), 2, "{error}");
    assert_eq!(error.matches("no such file").count(), 2, "{error}");
}

#[test]
fn a_name_that_is_not_utf8_is_said() {
    use std::os::unix::ffi::OsStrExt;
    let host = Host::new("[\"*.json\"]");
    host.write_peer("b.json", "b", 2);
    let odd = host.0.path().join(std::ffi::OsStr::from_bytes(b"\xff.json"));
    fs::write(odd, "").unwrap();
    let error = host.peers().unwrap_err();
    assert!(error.contains("the name of a file is not UTF-8"), "{error}");
}

/// Four thousand files of a peer each are as good as one.
#[test]
fn a_mesh_of_many_files_is_read() {
    let host = Host::new("[\"peers.d/*.toml\"]");
    for id in 2..4000_u16 {
        let [high, low] = id.to_be_bytes();
        let text = format!(
            "[[peer]]\nname = \"h{id}\"\nshort_id = {id}\naddress = \"10.0.{high}.{low}\"\n"
        );
        host.write(&format!("peers.d/h{id}.toml"), &text, 0o644);
    }
    assert_eq!(host.peers().unwrap().len(), 3999);
}

/// The private key is compared with a public key that stands in another file.
#[test]
fn an_error_that_is_found_later_names_the_included_file() {
    let host = Host::new("[\"peers.json\"]");
    let mesh = fs::read_to_string(host.at("mesh.toml")).unwrap();
    let mesh =
        mesh.replace("mesh_key = { file = \"mesh.key\" }", "private_key = { file = \"mesh.key\" }");
    host.write("mesh.toml", mesh.split("[[peer]]").next().unwrap(), 0o644);
    let of_another = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f";
    let peers = format!(
        "{{\n  \"peer\": [\n    {{\n      \"name\": \"a\",\n      \"short_id\": 1,\n      \
         \"address\": \"192.0.2.1\",\n      \"public_key\": \"{of_another}\"\n    }}\n  ]\n}}\n"
    );
    host.write("peers.json", &peers, 0o644);
    let (status, said) = host.meshsec(&["--local", "a", "validate"]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("does not belong to a\n  --> peers.json:7:21\n"), "{said}");
    assert!(said.contains("peers.json: 1 error; nothing was changed"), "{said}");
}

#[test]
fn validate_says_how_many_peers_are_in_each_file() {
    let host = Host::new("[\"peers.d/*.toml\", \"peers.json\"]");
    host.write_peer("peers.d/b.toml", "b", 2);
    host.write_peer("peers.d/c.toml", "c", 3);
    let two = "{ \"peer\": [ { \"name\": \"d\", \"short_id\": 4, \"address\": \"192.0.2.4\" },\n\
               { \"name\": \"e\", \"short_id\": 5, \"address\": \"192.0.2.5\" } ] }\n";
    host.write("peers.json", two, 0o644);
    let (status, said) = host.meshsec(&["validate"]);
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(
        said.split("Fingerprints").next(),
        Some(
            "mesh.toml is valid: mesh lab, 5 peers, generation 1.\n    1 peer in mesh.toml\n    \
             1 peer in peers.d/b.toml\n    1 peer in peers.d/c.toml\n    2 peers in peers.json\n"
        )
    );
    let (_, said) = host.meshsec(&["validate", "--format", "json"]);
    let document: serde_json::Value = serde_json::from_str(&said).unwrap();
    let sum = |file: &str| hex::encode(Sha256::digest(fs::read(host.at(file)).unwrap()));
    let file = |file: &str, peers: usize| serde_json::json!({ "file": file, "peers": peers, "sha256": sum(file) });
    let files = [
        file("mesh.toml", 1),
        file("peers.d/b.toml", 1),
        file("peers.d/c.toml", 1),
        file("peers.json", 2),
    ];
    assert_eq!(document["files"], serde_json::json!(files));
    assert_eq!(document["peers"], 5);
    // sha256sum mesh.toml peers.d/*.toml peers.json | cut -d' ' -f1 | sha256sum
    let names = ["mesh.toml", "peers.d/b.toml", "peers.d/c.toml", "peers.json"];
    let lines: String = names.iter().map(|name| sum(name) + "\n").collect();
    assert_eq!(document["sha256"], hex::encode(Sha256::digest(lines)));
}

#[test]
fn rotate_changes_mesh_toml_alone_and_only_if_all_files_are_valid() {
    let host = Host::new("[\"b.toml\"]");
    host.write_peer("b.toml", "b", 2);
    let included = fs::read(host.at("b.toml")).unwrap();
    let (status, said) = host.meshsec(&["rotate"]);
    assert_eq!(status, Some(0), "{said}");
    let mesh = fs::read_to_string(host.at("mesh.toml")).unwrap();
    assert!(mesh.contains("generation = 2\n"), "{mesh}");
    assert_eq!(fs::read(host.at("b.toml")).unwrap(), included);
    host.write_peer("b.toml", "a", 2);
    let (status, said) = host.meshsec(&["rotate"]);
    assert!(status == Some(1) && said.contains("on line 9 of mesh.toml"), "{said}");
    assert_eq!(fs::read_to_string(host.at("mesh.toml")).unwrap(), mesh);
}

#[test]
fn a_saved_plan_holds_for_the_files_that_it_was_made_from() {
    if !inside("include::a_saved_plan_holds_for_the_files_that_it_was_made_from") {
        return;
    }
    ip("address add 192.0.2.1/24 dev lo");
    ip("link set lo up");
    let host = Host::new("[\"d/*.toml\", \"c.json\"]");
    host.write_peer("d/b.toml", "b", 2);
    host.write_peer("c.json", "c", 3);
    let save = || {
        let (status, said) = host.meshsec(&["plan", "--out", "plan.json"]);
        assert_eq!(status, Some(0), "{said}");
    };
    let apply = || host.meshsec(&["apply", "plan.json"]);
    let refused = |why: &str| {
        let (status, said) = apply();
        let why = format!("this plan is stale: {why} since it was saved; plan again");
        assert!(status == Some(1) && said.contains(&why), "wanted {why}: {said}");
        let policies = Command::new("ip").args(["xfrm", "policy"]).output().unwrap().stdout;
        assert_eq!(String::from_utf8_lossy(&policies), "");
    };
    save();
    // A comment changes no peer, and is a change all the same.
    let before = fs::read_to_string(host.at("d/b.toml")).unwrap();
    host.write("d/b.toml", &(before.clone() + "# seen\n"), 0o644);
    refused("\"d/b.toml\" was changed");
    host.write("d/b.toml", &before, 0o644);
    host.write_peer("d/e.toml", "e", 5);
    refused("\"d/e.toml\" was added to the included files");
    save();
    fs::remove_file(host.at("d/e.toml")).unwrap();
    refused("\"d/e.toml\" was removed from the included files");
    save();
    fs::rename(host.at("d/b.toml"), host.at("d/f.toml")).unwrap();
    refused("\"d/b.toml\" was removed from the included files");
    fs::rename(host.at("d/f.toml"), host.at("d/b.toml")).unwrap();
    // As it was saved it is performed, as far as this kernel has ESP.
    let (_, said) = apply();
    assert!(!said.contains("stale") && !said.contains("a plan of now"), "{said}");

    // A plan of a file without included files has no list, as those of before.
    host.write_mesh("[\"d/*.toml\"]");
    let mesh = fs::read_to_string(host.at("mesh.toml")).unwrap();
    host.write("mesh.toml", &mesh.replace("include = [\"d/*.toml\"]\n", ""), 0o644);
    host.meshsec(&["destroy", "--auto-approve"]);
    save();
    assert!(!fs::read_to_string(host.at("plan.json")).unwrap().contains("included"));
    let (_, said) = apply();
    assert!(!said.contains("stale") && !said.contains("not a plan"), "{said}");
}

//! The recipes of docs/inventories.md, word for word, run by jq on the samples in
//! examples/inventories.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

const SECRET: &str = "5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f\n";

/// The programs that print an inventory, and the samples of their output.
const PROGRAMS: [(&str, &str); 3] = [
    ("ansible-inventory", "ansible.json"),
    ("terraform", "terraform.json"),
    ("kubectl", "nodes.json"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The blocks of commands in the page.
fn recipes() -> Vec<String> {
    let page = fs::read_to_string(root().join("docs/inventories.md")).unwrap();
    let blocks = page.split("\n```sh\n").skip(1);
    blocks.map(|block| block.split("\n```").next().unwrap().to_owned()).collect()
}

/// A directory with the examples, a secret, and programs that print the samples.
struct Work(tempfile::TempDir);

impl Work {
    fn new() -> Self {
        let found = Command::new("jq").arg("--version").output();
        assert!(found.is_ok(), "jq is needed (apt-get install jq): {found:?}");
        let work = Self(tempfile::tempdir().unwrap());
        for entry in fs::read_dir(root().join("examples/inventories")).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, work.0.path().join(path.file_name().unwrap())).unwrap();
        }
        work.write("mesh.key", SECRET, 0o600);
        for (program, sample) in PROGRAMS {
            work.write(program, &format!("#!/bin/sh\nexec cat {sample}\n"), 0o755);
        }
        work.succeeds(&recipes()[0]);
        work
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn read(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.0.path().join(name)).unwrap()).unwrap()
    }

    /// Runs a recipe in the directory.
    fn run(&self, recipe: &str) -> Output {
        let programs = Path::new(env!("CARGO_BIN_EXE_meshsec")).parent().unwrap();
        let others = std::env::var("PATH").unwrap();
        let path = format!("{}:{}:{others}", self.0.path().display(), programs.display());
        let mut command = Command::new("sh");
        command.args(["-c", &format!("umask 022\n{recipe}")]).env("PATH", path);
        command.current_dir(self.0.path()).output().unwrap()
    }

    #[track_caller]
    fn succeeds(&self, recipe: &str) -> String {
        let output = self.run(recipe);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "{recipe}: {said}");
        said
    }

    /// Updates peers.json from the inventory that a program prints.
    #[track_caller]
    fn update(&self, program: &str) -> String {
        let recipes = recipes();
        let recipe = recipes.iter().find(|recipe| recipe.starts_with(program)).unwrap();
        self.succeeds(recipe);
        self.succeeds(recipes.last().unwrap())
    }

    /// The ShortIDs in peers.json.
    fn ids(&self) -> BTreeMap<String, u64> {
        let peers = self.read("peers.json")["peer"].as_array().unwrap().clone();
        let id = |peer: &Value| (text(&peer["name"]), peer["short_id"].as_u64().unwrap());
        peers.iter().map(id).collect()
    }

    /// Gives the inventory of Terraform these hosts.
    fn hosts(&self, hosts: &[(&str, &str)]) {
        let hosts: BTreeMap<&str, &str> = hosts.iter().copied().collect();
        let output = json!({ "hosts": { "value": hosts } });
        self.write("terraform.json", &output.to_string(), 0o644);
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn ids(of: &[(&str, u64)]) -> BTreeMap<String, u64> {
    of.iter().map(|(name, id)| ((*name).to_owned(), *id)).collect()
}

#[test]
fn every_inventory_becomes_a_file_of_peers_that_is_valid() {
    for (program, names) in [
        ("ansible-inventory", ["a.example", "b.example", "c.example"]),
        ("terraform", ["a", "b", "c"]),
        ("kubectl", ["a", "b", "c"]),
    ] {
        let work = Work::new();
        let said = work.update(program);
        assert!(said.contains("is valid: mesh lab, 3 peers"), "{program}: {said}");
        assert!(said.contains("    3 peers in new.json\n"), "{program}: {said}");
        let peers = names.iter().zip(1..).map(|(name, id)| {
            json!({ "name": name, "short_id": id, "address": format!("192.0.2.{id}") })
        });
        assert_eq!(work.read("peers.json"), json!({ "peer": peers.collect::<Vec<_>>() }));
        // The next update changes nothing.
        let said = work.update(program);
        assert!(!said.contains("+++"), "{said}");
        let said = work.succeeds("meshsec -c mesh.toml validate");
        assert!(said.contains("    3 peers in peers.json\n"), "{said}");
    }
}

#[test]
fn short_ids_stay_when_hosts_come_and_go() {
    let work = Work::new();
    let of = |name: &str| format!("192.0.2.{}", name.bytes().next().unwrap());
    let run = |names: &[&str]| {
        let addresses: Vec<String> = names.iter().map(|name| of(name)).collect();
        let addresses = addresses.iter().map(String::as_str);
        let hosts: Vec<_> = names.iter().copied().zip(addresses).collect();
        work.hosts(&hosts);
        work.update("terraform");
        work.ids()
    };
    assert_eq!(run(&["b", "d", "f"]), ids(&[("b", 1), ("d", 2), ("f", 3)]));
    // A new host does not get the number of one that leaves in the same update.
    let next = run(&["a", "b", "c", "f"]);
    assert_eq!(next, ids(&[("a", 4), ("b", 1), ("c", 5), ("f", 3)]));
    // From the next update on it is free.
    let next = run(&["a", "b", "c", "d", "e", "f"]);
    assert_eq!(next, ids(&[("a", 4), ("b", 1), ("c", 5), ("d", 2), ("e", 6), ("f", 3)]));
    assert_eq!(run(&["f"]), ids(&[("f", 3)]));
    assert_eq!(run(&["f", "g"]), ids(&[("f", 3), ("g", 1)]));
}

#[test]
fn an_address_changes_and_other_keys_stay() {
    let work = Work::new();
    work.update("terraform");
    let mut peers = work.read("peers.json");
    peers["peer"][1]["groups"] = json!(["dc1"]);
    work.write("peers.json", &peers.to_string(), 0o644);
    work.hosts(&[("b", "192.0.2.22"), ("c", "192.0.2.3")]);
    work.update("terraform");
    let b = json!({ "name": "b", "short_id": 2, "address": "192.0.2.22", "groups": ["dc1"] });
    assert_eq!(work.read("peers.json")["peer"][0], b);
}

#[test]
fn short_ids_of_other_files_are_left_out() {
    let work = Work::new();
    let recipes = recipes();
    let recipe = recipes.iter().find(|recipe| recipe.starts_with("terraform")).unwrap();
    work.succeeds(&recipe.replace("short_ids($old)", "short_ids($old; [1, 3])"));
    work.succeeds(recipes.last().unwrap());
    assert_eq!(work.ids(), ids(&[("a", 2), ("b", 4), ("c", 5)]));
}

/// An update that fails leaves the list as it was.
#[test]
fn a_host_without_an_address_and_an_empty_inventory_are_errors() {
    let work = Work::new();
    work.update("ansible-inventory");
    let before = work.read("peers.json");
    let recipes = recipes();
    let of = |program: &str| recipes.iter().find(|recipe| recipe.starts_with(program)).unwrap();
    let check = recipes.last().unwrap();

    let mut inventory = work.read("ansible.json");
    inventory["_meta"]["hostvars"].as_object_mut().unwrap().remove("b.example");
    work.write("ansible.json", &inventory.to_string(), 0o644);
    work.succeeds(of("ansible-inventory"));
    let output = work.run(check);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("error: address must be a string, not null"), "{said}");
    assert!(said.contains("--> new.json:"), "{said}");
    assert_eq!(work.read("peers.json"), before);

    let mut nodes = work.read("nodes.json");
    nodes["items"][1]["status"]["addresses"] = json!([]);
    work.write("nodes.json", &nodes.to_string(), 0o644);
    work.succeeds(of("kubectl"));
    assert!(!work.run(check).status.success());

    work.hosts(&[]);
    let output = work.run(of("terraform"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("the inventory has no host"), "{said}");
    let output = work.run(check);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("error: the file is empty\n  --> new.json:1:1"), "{said}");
    assert_eq!(work.read("peers.json"), before);
}

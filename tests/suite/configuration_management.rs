//! The examples of docs/configuration-management.md: their YAML, and every mesh.toml in them.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

const SECRET: &str = "5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f\n";

fn examples() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/examples"))
}

/// The output of a program for the system's Python, which has the packages that ansible-core needs.
fn python(program: &str, arguments: &[PathBuf]) -> String {
    let output =
        Command::new("/usr/bin/python3").args(["-c", program]).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "(is ansible-core installed?) {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Fails unless a mesh.toml is valid beside its secret.
#[track_caller]
fn is_valid(text: &str, peers: usize) {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("mesh.key");
    fs::write(&key, SECRET).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
    command.args(["-c", "-", "validate"]).current_dir(directory.path());
    command.env("CREDENTIALS_DIRECTORY", directory.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(said.contains(&format!("is valid: mesh lab, {peers} peers")), "{text}\n{said}");
    assert!(!said.contains("Warning"), "{said}");
}

#[test]
fn every_example_in_yaml_is_yaml() {
    let mut left = vec![examples().to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|is| is == "yml" || is == "sls") {
                files.push(path);
            }
        }
    }
    assert!(files.len() >= 10, "{files:?}");
    python("import sys, yaml; [yaml.safe_load(open(it)) for it in sys.argv[1:]]", &files);
}

#[test]
fn the_file_that_ansible_makes_of_its_inventory_is_valid() {
    let program = "import sys, yaml, jinja2\n\
        hosts = yaml.safe_load(open(sys.argv[1]))['mesh']['hosts']\n\
        common = yaml.safe_load(open(sys.argv[2]))\n\
        template = jinja2.Template(open(sys.argv[3]).read())\n\
        print(template.render(common, groups={'mesh': list(hosts)}, hostvars=hosts))";
    let folder = examples().join("ansible");
    let files = ["inventory.yml", "group_vars/mesh.yml", "templates/mesh.toml.j2"];
    is_valid(&python(program, &files.map(|file| folder.join(file))), 3);
}

#[test]
fn the_file_that_cloud_init_writes_is_valid() {
    let program =
        "import sys, yaml, json\njson.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
    let data = python(program, &[examples().join("cloud-init/user-data.yml")]);
    let data: Value = serde_json::from_str(&data).unwrap();
    assert_eq!(data["write_files"][0]["path"], "/etc/meshsec/mesh.toml");
    is_valid(data["write_files"][0]["content"].as_str().unwrap(), 2);
}

/// The service of NixOS has the sandbox of examples/systemd, but for a few lines.
#[test]
fn the_service_of_nixos_has_no_right_that_the_unit_lacks() {
    let unit = fs::read_to_string(examples().join("systemd/meshsec.service")).unwrap();
    let module = fs::read_to_string(examples().join("nixos/meshsec.nix")).unwrap();
    let confined = |line: &&str| line.ends_with("=yes") && !line.starts_with("DefaultDependencies");
    for line in unit.lines().filter(confined) {
        let name = line.trim_end_matches("=yes");
        assert!(module.contains(&format!("{name} = true;")), "{name} is missing");
    }
    let capabilities = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let quoted: Vec<_> = capabilities.unwrap().split(' ').map(|it| format!("\"{it}\"")).collect();
    assert!(module.contains(&format!("CapabilityBoundingSet = [ {} ];", quoted.join(" "))));
}

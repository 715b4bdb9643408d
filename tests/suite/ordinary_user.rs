//! Commands of a user who may not read the secrets.

use std::{
    fs,
    io::ErrorKind,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, Output},
};

/// The user nobody of most distributions.
const NOBODY: u32 = 65534;

/// A program, a mesh.toml and a mesh.key that only its owner reads, where anybody may enter.
fn host() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    mode(dir.path(), 0o755).unwrap();
    let program = dir.path().join("meshsec");
    fs::copy(env!("CARGO_BIN_EXE_meshsec"), &program).unwrap();
    mode(&program, 0o755).unwrap();
    let text = "[mesh]\nname = \"lab\"\n[keys]\nmesh_key = { file = \"mesh.key\" }\n\
                [rotation]\ngeneration = 5\n\
                [[peer]]\nname = \"a\"\nshort_id = 1\naddress = \"192.0.2.1\"\n\
                [[peer]]\nname = \"b\"\nshort_id = 2\naddress = \"192.0.2.2\"\n";
    fs::write(dir.path().join("mesh.toml"), text).unwrap();
    mode(&dir.path().join("mesh.toml"), 0o644).unwrap();
    fs::write(dir.path().join("mesh.key"), "5f".repeat(32)).unwrap();
    // Nobody but root reads a file of this mode, its owner included.
    mode(&dir.path().join("mesh.key"), 0o000).unwrap();
    dir
}

fn meshsec(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(dir.join("meshsec"));
    command.args(["-c", "mesh.toml", "--local", "a"]).args(arguments).current_dir(dir);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    // A process that another thread has just begun to start may still hold the copy open for writing.
    loop {
        match command.output() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
            output => return output.unwrap(),
        }
    }
}

#[test]
fn a_secret_that_is_not_readable_is_absent_where_none_is_needed() {
    let dir = host();
    let plan = meshsec(dir.path(), &["plan", "--live", "empty"]);
    let (out, err) = (String::from_utf8_lossy(&plan.stdout), String::from_utf8_lossy(&plan.stderr));
    assert_eq!(plan.status.code(), Some(0), "{out}{err}");
    let warning = "mesh_key can't be read, keys are not checked: \
                   cannot read secret mesh.key: permission denied";
    assert!(out.contains(warning), "{out}{err}");
}

#[test]
fn who_may_not_read_a_secret_is_told_to_run_as_root() {
    let dir = host();
    let validate = meshsec(dir.path(), &["validate"]);
    let err = String::from_utf8_lossy(&validate.stderr);
    assert_eq!(validate.status.code(), Some(1), "{err}");
    assert!(err.contains("cannot read secret mesh.key: permission denied"), "{err}");
    assert!(err.contains("^ run as root (sudo)"), "{err}");
}

/// What a repository holds: no secret, and files with any mode.
#[test]
fn a_file_is_checked_without_its_secrets() {
    let dir = host();
    let (file, key) = (dir.path().join("mesh.toml"), dir.path().join("mesh.key"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let checked = || {
        let output = meshsec(dir.path(), &["validate", "--without-secrets"]);
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), text)
    };
    let unreadable = checked();
    assert_eq!(unreadable.0, Some(0), "{}", unreadable.1);
    assert!(unreadable.1.contains("The secrets were not looked at."), "{}", unreadable.1);
    fs::remove_file(key).unwrap();
    assert_eq!(checked(), unreadable);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("short_id = 2", "short_id = 1")).unwrap();
    assert_eq!(checked().0, Some(1));
}

/// These need no secret: the error is about something else.
#[test]
fn commands_that_need_no_secret_do_not_miss_it() {
    let dir = host();
    for words in [&["show"][..], &["status"], &["snapshot"], &["destroy", "--auto-approve"]] {
        let output = meshsec(dir.path(), words);
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(!err.contains("mesh.key") && err.contains("CAP_NET_ADMIN"), "{words:?}: {err}");
    }
}

#[test]
fn a_credential_can_be_had_by_hand() {
    let dir = host();
    let path = dir.path().join("mesh.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("file = ", "credential = ")).unwrap();
    let validate = meshsec(dir.path(), &["validate"]);
    let err = String::from_utf8_lossy(&validate.stderr);
    assert!(err.contains("type: CREDENTIALS_DIRECTORY=. meshsec plan"), "{err}");
    // A volume of Kubernetes has such a mode, and a credential may have any.
    fs::set_permissions(dir.path().join("mesh.key"), fs::Permissions::from_mode(0o444)).unwrap();
    let mut command = Command::new(dir.path().join("meshsec"));
    command.args(["-c", "mesh.toml", "validate"]).current_dir(dir.path());
    let validate = command.env("CREDENTIALS_DIRECTORY", ".").output().unwrap();
    assert!(validate.status.success(), "{}", String::from_utf8_lossy(&validate.stderr));
}

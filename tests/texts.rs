//! What the command line says to what people type.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

fn mesh() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let text = "[mesh]\nname = \"lab\"\n[keys]\nmesh_key = { file = \"mesh.key\" }\n\
                [rotation]\ngeneration = 5\n\
                [[peer]]\nname = \"h1\"\nshort_id = 1\naddress = \"192.0.2.1\"\n\
                [[peer]]\nname = \"h2\"\nshort_id = 2\naddress = \"192.0.2.2\"\n";
    fs::write(dir.path().join("mesh.toml"), text).unwrap();
    dir
}

fn meshsec(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshsec"));
    command.args(arguments).current_dir(dir).output().unwrap()
}

fn said(dir: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = meshsec(dir, arguments);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn an_spi_is_taken_as_tcpdump_prints_it_and_its_peers_have_names() {
    let dir = mesh();
    let with_names = "0x81001002: generation 1 (modulo 128), from 1 (h1, 192.0.2.1), \
                      to 2 (h2, 192.0.2.2)\n";
    for spi in ["0x81001002", "spi=0x81001002", "spi=0x81001002,"] {
        let (status, text) = said(dir.path(), &["-c", "mesh.toml", "spi", spi]);
        assert_eq!((status, text.as_str()), (Some(0), with_names), "{spi}");
    }
    let without = said(dir.path(), &["-c", "none.toml", "spi", "0x81001002"]).1;
    assert_eq!(without, "0x81001002: generation 1 (modulo 128), from 1, to 2\n");
    let stranger = said(dir.path(), &["-c", "mesh.toml", "spi", "0x81009002"]).1;
    assert!(stranger.contains("from 9 (not a peer of the file), to 2 (h2"), "{stranger}");
    let json = said(dir.path(), &["-c", "mesh.toml", "--format", "json", "spi", "0x81001002"]).1;
    assert!(json.contains("\"from_peer\": \"h1\"") && json.contains("\"from\": 1"), "{json}");
}

#[test]
fn hex_without_0x_is_recognised() {
    let dir = mesh();
    for spi in ["81001002", "8100100a"] {
        let (status, text) = said(dir.path(), &["spi", spi]);
        assert_eq!(status, Some(1), "{text}");
        assert!(text.contains(&format!("; did you mean 0x{spi}?")), "{text}");
    }
    let (_, text) = said(dir.path(), &["spi", "x\u{1b}"]);
    assert!(text.contains("is not an SPI; write 32 bits such as 0x81001002"), "{text:?}");
}

#[test]
fn options_that_others_have_are_told_what_they_are_called_here() {
    let dir = mesh();
    for (arguments, tip) in [
        (&["apply", "-y"][..], "tip: write --auto-approve"),
        (&["destroy", "--yes"], "tip: write --auto-approve"),
        (&["plan", "mesh.toml"], "tip: the mesh's file is named with -c FILE"),
        (&["apply", "--dry-run"], "tip: meshsec plan shows what apply would do"),
        (&["apply", "mesh.toml"], "for a mesh.toml write -c FILE"),
    ] {
        let (status, text) = said(dir.path(), arguments);
        assert_eq!(status, Some(1), "{text}");
        assert!(text.contains(tip) && !text.contains("as a value"), "{arguments:?}: {text}");
    }
}

#[test]
fn mtu_says_what_is_needed_below() {
    let dir = mesh();
    let (status, text) = said(dir.path(), &["-c", "mesh.toml", "mtu", "--inner-mtu", "1500"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("   1584  MTU needed below for 1500 bytes inside\n"), "{text}");
    assert!(text.contains("= 1500  largest MTU of the tunnel's device"), "{text}");
    let (status, text) = said(dir.path(), &["-c", "mesh.toml", "mtu", "--inner-mtu", "65500"]);
    assert_eq!(status, Some(1));
    assert!(text.contains("no IP packet carries 65500 bytes inside"), "{text}");
}

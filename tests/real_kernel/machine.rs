//! Tests that change the whole machine: modules, their configuration, and limits of all sockets. In
//! a guest only, like the tests of `clock`.

use std::{fs, path::Path, process::Command};

use crate::{
    fixture::{A, Lab, Underlay, write_secret},
    mesh_file::{MESH_KEY, Peer},
    shell,
    wait::wait_for,
};

/// Puts a file's old contents back, or takes it away.
struct Restored {
    path: &'static str,
    before: Option<Vec<u8>>,
}

impl Restored {
    fn write(path: &'static str, text: &str) -> Self {
        let before = fs::read(path).ok();
        fs::write(path, text).unwrap_or_else(|e| panic!("{path} can't be written: {e}"));
        Self { path, before }
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        let _ = match &self.before {
            Some(before) => fs::write(self.path, before),
            None => fs::remove_file(self.path),
        };
    }
}

/// Keeps modules from being loaded, as many systems have done since 2026.
fn barring(lines: &str) -> Restored {
    for module in ["esp4", "esp6"] {
        // An SA that asked for offload has loaded the module that holds it, for good; the SAs of a
        // namespace that is gone hold it for a while.
        let offload = format!("{module}_offload");
        wait_for(&format!("{module} to be unloaded"), || {
            let _ = shell::run(Command::new("rmmod").args([&offload, module]));
            (!Path::new("/sys/module").join(module).exists()).then_some(())
        });
    }
    fs::create_dir_all("/etc/modprobe.d").expect("a directory can be made");
    Restored::write("/etc/modprobe.d/dirtyfrag.conf", lines)
}

const KEEPS: &str = "/etc/modprobe.d/dirtyfrag.conf keeps module";

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn esp_that_modprobe_keeps_away_is_foreseen_by_plan_and_explained_by_apply() {
    for (underlay, module) in [(Underlay::V4, "esp4"), (Underlay::V6, "esp6")] {
        for line in [
            "install esp4 /bin/false\ninstall esp6 /bin/true\n",
            "blacklist esp4\nblacklist esp6\n",
        ] {
            let lab = Lab::over(&[underlay; 2]);
            let _barred = barring(line);
            let said = format!("{KEEPS} {module} from being loaded");
            let first = format!("Warning: apply will not get past its first trial: {said}");
            lab.meshsec(A, &["plan"]).exits(0).says(&first);
            let apply = lab.meshsec(A, &["apply", "--auto-approve"]).exits(1);
            let refused = "a trial of what this kernel can, on an SPI of no pair: EPROTONOSUPPORT";
            apply.says(refused).says(&format!("; {said}"));
            assert!(crate::xfrm::sas(lab.host(A)).is_empty());
        }
    }
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn a_mesh_of_one_family_works_where_the_other_is_barred() {
    let lab = Lab::new(2);
    let _barred = barring("install esp6 /bin/false\n");
    let plan = lab.meshsec(A, &["plan"]).exits(0);
    assert!(!plan.stdout.contains(KEEPS), "{plan}");
    lab.apply_all();
    lab.reaches(A, 1);
}

/// A host of many peers.
fn large(lab: &mut Lab) {
    lab.mesh.peers.extend((0..300).map(|i| Peer {
        name: format!("peer-{i}"),
        short_id: 100 + i,
        address: format!("203.0.{}.{}", i / 250, 1 + i % 250),
        public_key: None,
        stage: None,
        outside: None,
        lines: String::new(),
    }));
    lab.write(A, &lab.mesh);
}

#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_apply_is_whole_however_small_the_receive_buffers_of_the_machine_are() {
    let mut lab = Lab::new(1);
    large(&mut lab);
    for size in ["2304", "4096", "8192", "16384"] {
        let _max = Restored::write("/proc/sys/net/core/rmem_max", size);
        let _default = Restored::write("/proc/sys/net/core/rmem_default", size);
        lab.apply(A);
        lab.has_converged(A);
        // Looks, updates and deletes.
        lab.mesh.generation += 1;
        lab.write(A, &lab.mesh);
        lab.apply(A);
        lab.has_converged(A);
        lab.meshsec(A, &["destroy", "--auto-approve"]).exits(0);
    }
}

/// There CAP_NET_ADMIN doesn't pass the limit.
#[test]
#[ignore = "needs a kernel with ESP: cargo xtask test"]
fn an_apply_in_a_user_namespace_is_whole_however_small_its_receive_buffer_is() {
    let mut lab = Lab::new(1);
    large(&mut lab);
    for size in ["2304", "16384"] {
        let _max = Restored::write("/proc/sys/net/core/rmem_max", size);
        let _default = Restored::write("/proc/sys/net/core/rmem_default", size);
        let directory = lab.directory().join("user");
        fs::create_dir_all(&directory).expect("a directory can be made");
        fs::write(directory.join("mesh.toml"), lab.mesh.text()).expect("it can be written");
        write_secret(&directory.join("mesh.key"), MESH_KEY);
        let script = "ip link set lo up && ip address add 192.0.2.1/32 dev lo && \
                      \"$0\" -c mesh.toml apply --auto-approve && \
                      \"$0\" -c mesh.toml plan --detailed-exitcode && \
                      \"$0\" -c mesh.toml destroy --auto-approve";
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net", "sh", "-c", script]);
        command.arg(env!("CARGO_BIN_EXE_meshsec")).current_dir(&directory);
        shell::run(&mut command).exits(0).says("No changes.");
    }
}

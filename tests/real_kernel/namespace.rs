//! Network namespaces: each is a host.

use std::{
    fs,
    os::fd::AsFd,
    path::Path,
    process::{Child, Command},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{shell, shell::Ran};

/// A network namespace of its own name. A caller that makes several deletes them together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace(pub String);

impl Namespace {
    /// `ip` with these words, in here.
    #[track_caller]
    pub fn ip(&self, words: &str) -> String {
        self.try_ip(words).exits(0).stdout
    }

    /// `ip` with these words, in here, whether it succeeds or not.
    #[track_caller]
    pub fn try_ip(&self, words: &str) -> Ran {
        self.run(Command::new("ip").args(words.split_whitespace()))
    }

    /// `ip -batch` with these lines, in here.
    #[track_caller]
    pub fn ip_batch(&self, lines: &str) {
        self.batch("ip", lines);
    }

    /// `ip -batch` or `bridge -batch` with these lines, in here: one process for
    /// all of them, which counts on an emulated machine.
    #[track_caller]
    pub fn batch(&self, program: &str, lines: &str) {
        let mut command = Command::new(program);
        let ran = self.inside(|| shell::run_with(command.args(["-batch", "-"]), lines));
        ran.exits(0);
    }

    /// Runs a program in here to its end.
    pub fn run(&self, command: &mut Command) -> Ran {
        self.inside(|| shell::run(command))
    }

    /// Starts a program in here.
    pub fn spawn(&self, command: &mut Command) -> Child {
        let child = self.inside(|| command.spawn());
        child.unwrap_or_else(|e| panic!("{command:?} can't be run, and the tests need it: {e}"))
    }

    /// Runs a piece of this program in here.
    ///
    /// In a thread of its own, since a thread has one network namespace at a
    /// time, which the programs that it starts inherit. Its `/proc` files are
    /// under `/proc/thread-self`.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let path = Path::new("/run/netns").join(&self.0);
                let file = fs::File::open(&path)
                    .unwrap_or_else(|e| panic!("namespace {} is gone: {e}", path.display()));
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("root may enter a network namespace");
                work()
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A file under `/proc/thread-self/net`.
    pub fn proc_net(&self, name: &str) -> String {
        let path = format!("/proc/thread-self/net/{name}");
        self.inside(|| fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}")))
    }

    /// Sets a sysctl of `/proc/sys/net`.
    pub fn set_sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/net/{name}");
        self.inside(|| fs::write(&path, value).unwrap_or_else(|e| panic!("{path}: {e}")));
    }

    /// How many packets a device has received.
    pub fn received(&self, device: &str) -> u64 {
        let table = self.proc_net("dev");
        let row = table.lines().find_map(|line| {
            let (name, numbers) = line.split_once(':')?;
            (name.trim() == device).then_some(numbers)
        });
        let row = row.unwrap_or_else(|| panic!("no device {device} in\n{table}"));
        row.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("it counts packets")
    }
}

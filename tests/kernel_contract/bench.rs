//! The two kernels, each ready for a test.

use std::{
    net::IpAddr,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use meshsec::{
    kernel::{
        Kernel, KernelError, Linux, Memory,
        linux::{clock, netns},
    },
    model::{Algorithm, KeyView, Link, Live, Mode, Replay, Reqid, Sa, SaId, Time},
    plan::{Step, StepKind},
};

use crate::suite::OURS;

/// A kernel under test, and the other needs of a test.
pub trait Bench {
    /// The kernel.
    fn kernel(&mut self) -> &mut dyn Kernel;

    /// The time of its clock.
    fn now(&mut self) -> Time;

    /// Makes a placeholder such as the kernel makes for a missing SA.
    fn plant_larval(&mut self, src: IpAddr, id: SaId, reqid: Reqid);

    /// Makes a tunnel's device.
    fn plant_device(&mut self, name: &str);

    /// Everything there is, as the owner of [`OURS`] sees it.
    fn look(&mut self) -> Live {
        self.kernel().observe(OURS).expect("an observation")
    }

    /// Performs steps in one batch.
    fn all(&mut self, kinds: Vec<StepKind>) -> Vec<Result<(), KernelError>> {
        let steps: Vec<Step> = kinds.into_iter().map(|kind| Step { peer: None, kind }).collect();
        let answers = self.kernel().perform(&steps).expect("an answer to every step");
        assert_eq!(answers.len(), steps.len());
        answers
    }

    /// Performs one step.
    fn one(&mut self, kind: StepKind) -> Result<(), KernelError> {
        self.all(vec![kind]).remove(0)
    }

    /// Performs one step, which has to be done.
    fn done(&mut self, kind: StepKind) {
        self.one(kind).expect("a step that is done");
    }
}

impl Bench for Memory {
    fn kernel(&mut self) -> &mut dyn Kernel {
        self
    }

    fn now(&mut self) -> Time {
        if Memory::now(self) == Time::default() {
            self.set_now(clock::now());
        }
        Memory::now(self)
    }

    fn plant_larval(&mut self, src: IpAddr, id: SaId, reqid: Reqid) {
        self.state_mut().sas.push(Sa {
            id,
            src,
            reqid,
            mode: Mode::Transport,
            selector: None,
            algorithm: Algorithm::Larval,
            key: KeyView::Unknown,
            replay: Replay { window: 0, esn: false },
            ends: None,
            offload: None,
            encap: None,
            keepalive: None,
            if_id: 0,
            extras: Default::default(),
        });
    }

    fn plant_device(&mut self, name: &str) {
        self.state_mut().links.push(Link { name: name.into(), mtu: 1500, kind: None, queue: None });
    }
}

impl Bench for Linux {
    fn kernel(&mut self) -> &mut dyn Kernel {
        self
    }

    fn now(&mut self) -> Time {
        clock::now()
    }

    fn plant_larval(&mut self, src: IpAddr, id: SaId, reqid: Reqid) {
        let (dst, spi, reqid) = (id.dst, id.spi, reqid.0);
        ip(&format!(
            "xfrm state allocspi src {src} dst {dst} proto esp mode transport reqid {reqid} \
             min {spi} max {spi}"
        ));
    }

    fn plant_device(&mut self, name: &str) {
        ip(&format!("link add {name} type vxlan id 42 dstport 4789"));
    }
}

/// Runs a case on a fresh kernel in memory.
pub fn on_memory(case: fn(&mut dyn Bench)) {
    case(&mut Memory::default());
}

/// Runs a case on the real kernel, in a fresh network namespace.
pub fn on_linux(case: fn(&mut dyn Bench)) {
    in_a_fresh_namespace(move || case(&mut Linux::open().expect("a kernel with XFRM")));
}

/// Runs a test on a thread of its own, in a fresh network namespace with `lo` up.
pub fn in_a_fresh_namespace(test: impl FnOnce() + Send + 'static) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let namespace = Namespace(format!("meshsec-{}-{number}", std::process::id()));
    ip(&format!("netns add {}", namespace.0));
    let name = namespace.0.clone();
    let run = thread::spawn(move || {
        netns::enter(&name).expect("a namespace to enter");
        ip("link set lo up");
        test();
    });
    if let Err(panic) = run.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` in the namespace of the calling thread.
pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A namespace that goes when its test ends, however that ends.
struct Namespace(String);

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

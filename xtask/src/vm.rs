//! Runs a command on another kernel, under QEMU, with this machine's files.
//!
//! The guest's root is the host's root over 9p, read-only, beneath an overlay in memory: programs
//! just built are there, and the host's files can't be harmed. A scratch directory, shared for
//! writing, carries the command in and its exit status out; a virtio port carries the output. The
//! serial console is only kept to explain a guest that died.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::failure::{Attempt, Failure, MACHINE_STATUS};
use crate::kernels::{self, Kernel, Series};
use crate::{cargo, initramfs, packages, process, qemu, script};

/// A guest that has not run its command by then never will. Without KVM a boot takes 5 to 15
/// seconds, more on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// Default limit for the whole run.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(900);
/// A kernel under a KVM that works is up in 2 seconds.
const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// Lines of the console to show of a guest that died: an oops and its trace.
const LAST_WORDS: usize = 60;

/// A command and the guest to run it in.
pub struct Guest<'a> {
    /// The guest's kernel.
    pub kernel: &'a Kernel,
    /// The program and its arguments.
    pub command: &'a [String],
    /// Programs that it runs often, to be copied into the guest's memory.
    pub programs: &'a [PathBuf],
    /// A directory of the host that the guest can write to; a temporary one where none is given.
    pub scratch: Option<PathBuf>,
    /// Words for the kernel's command line, such as `fips=1`.
    pub append: &'a str,
    /// The prefix of its lines of output, where several guests run at the same time.
    pub label: &'a str,
    /// The time limit.
    pub limit: Duration,
}

/// The end of a command in a guest.
pub struct Finished {
    /// Its exit status, unless the guest died or overran its time.
    pub status: Result<u8, Failure>,
    /// All that it wrote, to both standard output and standard error.
    pub output: String,
}

/// `cargo xtask vm`.
pub fn run(arguments: &[String]) -> Result<u8, Failure> {
    let options = Options::parse(arguments)?;
    let machine_failed = |failure: Failure| failure.with_status(MACHINE_STATUS);
    let kernel = prepare(&options.series).map_err(machine_failed)?;
    let guest = Guest {
        kernel: &kernel,
        command: &options.command,
        programs: &[],
        scratch: options.scratch,
        append: &options.append,
        label: "",
        limit: options.limit,
    };
    guest.run().and_then(|finished| finished.status).map_err(machine_failed)
}

/// Gets everything that a guest of `series` needs.
pub fn prepare(series: &Series) -> Result<Kernel, Failure> {
    packages::ensure_machine()?;
    kernels::obtain(series)
}

struct Options {
    series: Series,
    command: Vec<String>,
    scratch: Option<PathBuf>,
    append: String,
    limit: Duration,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let (mut series, mut scratch, mut limit) = (None, None, DEFAULT_LIMIT);
        let mut words = arguments.iter();
        let (mut command, mut append) = (Vec::new(), String::new());
        while let Some(word) = words.next() {
            let mut value =
                || words.next().ok_or_else(|| Failure::usage(format!("{word} needs a value")));
            match word.as_str() {
                "--kernel" => series = Some(value()?.parse()?),
                "--append" => append.clone_from(value()?),
                "--scratch" => scratch = Some(PathBuf::from(value()?)),
                "--timeout" => {
                    let seconds = value()?
                        .parse()
                        .map_err(|_| Failure::usage("--timeout needs a number of seconds"))?;
                    limit = Duration::from_secs(seconds);
                }
                "--" => break,
                option if option.starts_with('-') => {
                    return Err(Failure::usage(format!("unknown option {option}")));
                }
                program => {
                    command.push(program.to_owned());
                    break;
                }
            }
        }
        command.extend(words.cloned());
        let series = series.ok_or_else(|| Failure::usage("vm needs --kernel"))?;
        if command.is_empty() {
            return Err(Failure::usage("vm needs a command"));
        }
        Ok(Self { series, command, scratch, append, limit })
    }
}

impl Guest<'_> {
    /// Boots the guest, shows the command's output as it comes, and returns when it is off.
    pub fn run(&self) -> Result<Finished, Failure> {
        let initramfs = initramfs::build(self.kernel)?;
        let files = Files::create(self.scratch.as_deref())?;
        files.write("initramfs", &initramfs)?;
        files.write("modules", self.kernel.modules.to_string_lossy().as_bytes())?;
        let programs = self.programs.iter().map(|path| format!("{}\n", path.display()));
        files.write("programs", programs.collect::<String>().as_bytes())?;
        let extra = [("MESHSEC_SCRATCH", "/run/meshsec-scratch")];
        let command = script::run_in(&cargo::root()?, self.command, &extra);
        files.write("command", command.as_bytes())?;
        let initramfs = files.path("initramfs");
        let accelerator = accelerator(self.kernel, &initramfs);

        let mut qemu = qemu(accelerator, self.kernel, &initramfs)?;
        attach(&mut qemu, &files, self.append)?;
        let mut child = process::spawn_teed(&mut qemu)?;
        let copier = process::copy_to_terminal(&mut child, self.label);
        let watched = self.watch(&mut child, &files);
        // Only a guest that overran its time still lives.
        let _ = child.kill();
        let _ = child.wait();
        let output = process::finish(copier);
        let status = watched.and_then(|()| files.status(&self.kernel.release));
        Ok(Finished { status, output })
    }

    fn watch(&self, child: &mut Child, files: &Files) -> Result<(), Failure> {
        let begin = Instant::now();
        let mut booted = false;
        while child.try_wait().attempt("watch the guest")?.is_none() {
            let elapsed = begin.elapsed();
            if !booted && files.path("started").exists() {
                booted = true;
                eprintln!("[{} is up after {:.1} s]", self.kernel.release, elapsed.as_secs_f32());
            }
            if elapsed > self.limit {
                let limit = self.limit.as_secs();
                return Err(files.died(&format!("the guest did not finish in {limit} s")));
            }
            if !booted && elapsed > BOOT_LIMIT {
                let limit = BOOT_LIMIT.as_secs();
                return Err(files.died(&format!("the guest did not boot in {limit} s")));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// QEMU with a kernel, without default devices and user configuration.
fn qemu(accelerator: Accelerator, kernel: &Kernel, initramfs: &Path) -> Result<Command, Failure> {
    // A guest must not outlive this process, even if it is killed.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).args(qemu::command()?);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.args(accelerator.arguments());
    command.args(["-m", "4G"]);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initramfs);
    Ok(command)
}

/// Adds the guest's devices: files, output, console, and a source of random numbers.
fn attach(qemu: &mut Command, files: &Files, append: &str) -> Result<(), Failure> {
    let scratch = quote_option(&files.directory);
    qemu.args(["-virtfs"])
        .arg("local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap");
    qemu.args(["-virtfs"])
        .arg(format!("local,path={scratch},mount_tag=scratch,security_model=none,multidevs=remap"));
    qemu.args(["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=output"]);
    qemu.args(["-chardev", "file,id=output,path=/dev/stdout"]);
    qemu.args(["-device", "virtio-rng-pci"]);
    qemu.args(["-serial", &format!("file:{}", files.path("console").display())]);
    // TCG keeps its translations by virtual address. A program with addresses that differ from run
    // to run is translated at every start: three to six times the time.
    let always = "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic norandmaps";
    qemu.arg("-append").arg(format!("{always} {append}"));
    // Its complaints about itself are part of the explanation when it fails.
    let log = std::fs::File::create(files.path("qemu")).attempt("create QEMU's log")?;
    qemu.stderr(log);
    Ok(())
}

/// QEMU reads a doubled comma in an option as one.
fn quote_option(path: &Path) -> String {
    path.to_string_lossy().replace(',', ",,")
}

/// The executor of the guest's instructions.
#[derive(Clone, Copy)]
enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    /// Under TCG a second processor costs more than it gives, as each flush of the other's TLB
    /// stops both: boot, processes and the first SA take 1.4 to 2 times the time.
    fn arguments(self) -> [&'static str; 6] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host", "-smp", "2"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1"],
        }
    }
}

/// KVM if it runs this kernel up to its first program. Not every /dev/kvm does: some cannot be
/// opened, and in nested machines some guests hang.
fn accelerator(kernel: &Kernel, initramfs: &Path) -> Accelerator {
    static WORKS: OnceLock<bool> = OnceLock::new();
    let works = *WORKS.get_or_init(|| {
        let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
        device.is_ok() && kvm_boots(kernel, initramfs)
    });
    if works { Accelerator::Kvm } else { Accelerator::Tcg }
}

fn kvm_boots(kernel: &Kernel, initramfs: &Path) -> bool {
    let console = initramfs.with_file_name("probe");
    let Ok(mut qemu) = qemu(Accelerator::Kvm, kernel, initramfs) else { return false };
    qemu.args(["-serial", &format!("file:{}", console.display())]);
    qemu.args(["-append", "console=ttyS0 quiet panic=-1 meshsec.probe"]);
    qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = qemu.spawn() else { return false };
    let begin = Instant::now();
    while begin.elapsed() < PROBE_LIMIT && matches!(child.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = child.kill();
    let _ = child.wait();
    std::fs::read(console)
        .is_ok_and(|text| String::from_utf8_lossy(&text).contains("meshsec-probe-ok"))
}

/// The scratch directory and the files with which host and guest talk in it.
struct Files {
    directory: PathBuf,
    temporary: bool,
}

/// The files of this program in a scratch directory, to be removed from one that stays.
const OURS: [&str; 9] = [
    "command",
    "console",
    "initramfs",
    "modules",
    "probe",
    "programs",
    "qemu",
    "started",
    "status",
];

impl Files {
    fn create(given: Option<&Path>) -> Result<Self, Failure> {
        use std::os::unix::fs::DirBuilderExt;
        let temporary = given.is_none();
        let directory = given.map_or_else(
            || std::env::temp_dir().join(format!("meshsec-vm-{}-{}", std::process::id(), serial())),
            Path::to_owned,
        );
        if temporary || !directory.exists() {
            std::fs::DirBuilder::new()
                .mode(0o700)
                .create(&directory)
                .attempt(format_args!("create {}", directory.display()))?;
        }
        let directory = directory.canonicalize().attempt("find the scratch directory")?;
        let files = Self { directory, temporary };
        files.remove_ours();
        Ok(files)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), Failure> {
        let path = self.path(name);
        std::fs::write(&path, content).attempt(format_args!("write {}", path.display()))
    }

    /// The status that the guest left as its last act: without it the guest died.
    fn status(&self, release: &str) -> Result<u8, Failure> {
        std::fs::read_to_string(self.path("status"))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| self.died(&format!("the guest ({release}) died")))
    }

    /// An error with the last words of the guest and of QEMU.
    fn died(&self, what: &str) -> Failure {
        let mut message = what.to_owned();
        for name in ["qemu", "console"] {
            let bytes = std::fs::read(self.path(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
            for line in &lines[lines.len().saturating_sub(LAST_WORDS)..] {
                message.push_str(&format!("\n  {name}: {line}"));
            }
        }
        Failure::new(message)
    }

    fn remove_ours(&self) {
        for name in OURS {
            let _ = std::fs::remove_file(self.path(name));
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if self.temporary {
            let _ = std::fs::remove_dir_all(&self.directory);
        } else {
            self.remove_ours();
        }
    }
}

/// Tells the scratch directories of one run apart.
fn serial() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

//! Unpacks a kernel image ahead of booting: without KVM the guest takes five seconds for the work
//! that xz does here in one. QEMU boots the ELF file inside through its PVH entry.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::failure::{Attempt, Failure};

/// Offsets in a bzImage (Documentation/arch/x86/boot.rst in Linux).
const SETUP_SECTORS: usize = 0x1f1;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// The build appends the unpacked size to the payload, which decompressors take for garbage.
const SIZE_APPENDED: usize = 4;

/// Writes the kernel in the bzImage `from` to `to`, uncompressed.
pub fn unpack(from: &Path, to: &Path) -> Result<(), Failure> {
    let image = std::fs::read(from).attempt(format_args!("read {}", from.display()))?;
    let unknown = || Failure::new("the kernel image has an unknown form");
    let payload = payload(&image).ok_or_else(unknown)?;
    let program = decompressor(payload).ok_or_else(unknown)?;
    let kernel = decompress(program, payload)?;
    if !kernel.starts_with(b"\x7fELF") {
        return Err(unknown());
    }
    std::fs::write(to, kernel).attempt(format_args!("write {}", to.display()))
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let setup = (usize::from(*image.get(SETUP_SECTORS)?) + 1) * 512;
    let begin = setup + word(PAYLOAD_OFFSET)?;
    let end = (begin + word(PAYLOAD_LENGTH)?).checked_sub(SIZE_APPENDED)?;
    image.get(begin..end)
}

fn decompressor(payload: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], &str); 3] =
        [(b"\xfd7zXZ", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\x1f\x8b", "gzip")];
    known.into_iter().find(|(magic, _)| payload.starts_with(magic)).map(|(_, program)| program)
}

fn decompress(program: &str, payload: &[u8]) -> Result<Vec<u8>, Failure> {
    let run = || -> std::io::Result<std::process::Output> {
        let mut child = Command::new(program)
            .arg("-dc")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let input = child.stdin.take();
        std::thread::scope(|scope| {
            // Both pipes move at once, or the program would wait for this one to read.
            scope.spawn(move || input.map(|mut pipe| pipe.write_all(payload)));
            child.wait_with_output()
        })
    };
    Ok(run().attempt(format_args!("run {program}"))?.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_lies_behind_the_setup_code() {
        let mut image = vec![0; 1024];
        image[SETUP_SECTORS] = 1;
        image[PAYLOAD_OFFSET] = 2;
        image[PAYLOAD_LENGTH] = 9;
        image.extend_from_slice(b"..\x28\xb5\x2f\xfd!size");
        assert_eq!(payload(&image), Some(&b"\x28\xb5\x2f\xfd!"[..]));
        assert_eq!(payload(&image).and_then(decompressor), Some("zstd"));
        assert_eq!(payload(&image[..1026]), None);
    }
}

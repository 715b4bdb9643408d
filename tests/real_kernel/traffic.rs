//! Traffic through the VXLAN from sockets of this program: a TCP stream, and datagrams
//! that need no answer.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    capture::MARKER,
    fixture::{Lab, inner},
    wait::wait_for,
};

const PORT: u16 = 5001;

/// A TCP connection through the VXLAN that sends without a pause.
pub struct Tcp {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<()>,
}

/// The bytes at this place of the stream.
fn byte(at: u64) -> u8 {
    let place = (at % 160) as usize;
    MARKER.get(place).copied().unwrap_or((at % 251) as u8)
}

impl Tcp {
    /// Connects and begins to send.
    pub fn start(lab: &Lab, from: usize, to: usize) -> Self {
        let address = format!("{}:{PORT}", inner(to));
        let listener = lab.host(to).inside(|| TcpListener::bind(&address).expect("a free port"));
        let mut client = lab.host(from).inside(|| TcpStream::connect(&address).expect("a server"));
        let (mut server, _) = listener.accept().expect("a connection");
        server.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout can be set");
        client.set_write_timeout(Some(Duration::from_secs(60))).expect("a timeout can be set");
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicU64::new(0));
        let (stopped, seen) = (Arc::clone(&stop), Arc::clone(&received));
        let sender = thread::spawn(move || {
            let mut sent = 0;
            while !stopped.load(Ordering::Relaxed) {
                let chunk: Vec<u8> = (sent..sent + 1300).map(byte).collect();
                client.write_all(&chunk).expect("the connection holds");
                sent += 1300;
                // Traffic without a pause would starve an emulated machine.
                thread::sleep(Duration::from_millis(10));
            }
            client.shutdown(Shutdown::Write).expect("the connection holds");
            sent
        });
        let receiver = thread::spawn(move || {
            let (mut at, mut buffer) = (0, vec![0; 65536]);
            loop {
                let length = server.read(&mut buffer).expect("the connection holds");
                if length == 0 {
                    return;
                }
                let wrong = buffer[..length].iter().zip(at..).find(|(is, at)| **is != byte(*at));
                assert!(wrong.is_none(), "not what was sent");
                at += length as u64;
                seen.store(at, Ordering::Relaxed);
            }
        });
        Self { stop, received, sender, receiver }
    }

    /// Waits until more has arrived.
    pub fn wait_for_more(&self) {
        let before = self.received.load(Ordering::Relaxed);
        wait_for("more of the TCP stream", || {
            (self.received.load(Ordering::Relaxed) > before).then_some(())
        });
    }

    /// Stops, and fails unless all that was sent has arrived.
    pub fn all_arrived(self) {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("the sender has not failed");
        self.receiver.join().expect("the receiver has not failed");
        assert_eq!(self.received.load(Ordering::Relaxed), sent);
    }
}

/// Datagrams from one host to another, a hundred a second, whatever becomes of them.
pub struct Flood {
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<()>>,
}

impl Flood {
    pub fn start(lab: &Lab, from: usize, to: usize) -> Self {
        let bound = lab.host(from).inside(|| UdpSocket::bind((inner(from), 0)));
        let socket = bound.expect("the host has this address");
        let to = (inner(to), PORT);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sender = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // A send that a policy blocks is refused here, and that is not a failure.
                let _ = socket.send_to(&MARKER.repeat(4), (to.0.as_str(), to.1));
                thread::sleep(Duration::from_millis(10));
            }
        });
        Self { stop, sender: Some(sender) }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
    }
}
